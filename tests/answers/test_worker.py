"""The process that does algebra: limits, deaths, and scripts that know nothing of it."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from a1_sgl.answers import worker
from a1_sgl.answers.worker import WORKER, Failed

FOR_EVER = "\\sum_{k=1}^{10^8} \\frac{1}{k^k}"


def compared(answer, gold="3"):
    return WORKER.compare(answer, gold, None)


def test_an_answer_that_takes_for_ever_costs_its_time_limit_and_nothing_else(monkeypatch):
    assert compared("\\sqrt9").correct
    monkeypatch.setattr(worker, "SECONDS", 1)
    with pytest.raises(Failed, match="not finished within 1 s"):
        compared(FOR_EVER)
    monkeypatch.undo()
    assert compared("\\sqrt9").correct  # the next one has a new process


def test_a_process_that_is_killed_is_replaced():
    assert compared("\\sqrt9").correct
    os.kill(WORKER._process.pid, signal.SIGKILL)
    while WORKER._process.poll() is None:
        time.sleep(0.01)
    assert compared("\\sqrt9").correct
    WORKER.close()
    assert compared("\\sqrt9").correct


def test_what_is_raised_there_is_told():
    with pytest.raises(Failed, match="TooLarge: a number of more than"):
        compared("9^{9^{9^9}}")
    assert compared("\\sqrt9").correct


SCRIPT = """
import sys
from a1_sgl.answers import grade, worker
from a1_sgl.types import Question

print("here", flush=True)
question = Question(id="q", messages=(), answer="3")
worker.SECONDS = int(sys.argv[1])
if sys.argv[2] == "warm":
    grade("math", "\\\\sqrt9", question)
print("grading", flush=True)
while True:
    try:
        found = grade("math", sys.argv[3], question)
        break
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print(found.correct, found.note, grade("math", "\\\\sqrt9", question).correct, flush=True)
"""


def script(tmp_path, *arguments):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(path), *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True,
        # Where the tests run in the background, Ctrl-C is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def test_a_plain_script_may_grade(tmp_path):
    """Nothing of it is run in the process that compares: no ``if __name__ == "__main__":`` is needed."""
    child = script(tmp_path, "10", "cold", "\\sqrt9")
    assert child.communicate(timeout=100)[0].splitlines() == ["here", "grading", "True None True"]


def test_a_dead_caller_leaves_no_process(tmp_path):
    child = script(tmp_path, "10", "warm", FOR_EVER)
    assert [child.stdout.readline() for _ in range(2)] == ["here\n", "grading\n"]
    (process,) = psutil.Process(child.pid).children()
    child.kill()
    child.wait()
    process.wait(60)
    assert not process.is_running()


def test_ctrl_c_ends_a_comparison_and_spoils_no_other(tmp_path):
    child = script(tmp_path, "10", "warm", FOR_EVER)
    assert [child.stdout.readline() for _ in range(2)] == ["here\n", "grading\n"]
    time.sleep(0.5)
    os.killpg(child.pid, signal.SIGINT)
    assert child.communicate(timeout=100)[0].splitlines() == [
        "interrupted", "False could not be compared: not finished within 10 s True"
    ]  # fmt: skip
