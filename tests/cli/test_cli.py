"""The command line as a user meets it: exit statuses, stderr, 80 columns."""

import json
import subprocess
import sys

import pytest


def a1(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "a1_sgl.cli", *arguments], capture_output=True, text=True, timeout=200, cwd=cwd
    )


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["eval", "--out", "x"], "no draft and no target runtime is launched here"),
        (["eval", "--out", "x", "--program", "direct"], "no target runtime is launched here"),
        (["eval", "--out", "x", "--draft", "nonsense", "--target", "nonsense"], "'nonsense' is not a URL"),
        (
            ["eval", "--out", "x", "--draft", "http://127.0.0.1:9", "--target", "http://127.0.0.1:9"],
            "is the runtime up",
        ),
        (["eval", "--out", "x", "--alpha", "1.5"], "strictly between 0 and 1, not 1.5"),
        (["eval", "--out", "x", "--alpha", "0"], "strictly between 0 and 1, not 0"),
        (["eval", "--out", "x", "--alpha", "many"], "--alpha"),
        (["eval", "--out", "x", "--task", "gsm9k"], "unknown task 'gsm9k'; known: chain"),
        (["eval", "--out", "x", "--program", "beam"], "unknown program 'beam'; known: a1, direct"),
        (["eval", "--out", "x", "--split", "dev"], "no draft"),
        (["eval", "--out", "x", "--questions", "0"], "questions must be at least 1, not 0"),
        (["eval", "--out", "x", "--levels", "3-10"], "--levels takes FIRST:LAST, such as 3:10, not '3-10'"),
        (["eval", "--out", "x", "--levels", "1:99"], "lie within 3 to 10, not 1 to 99"),
        (["eval", "--out", "x", "--set", "turns"], "--set takes NAME=VALUE"),
        (["eval", "--out", "x", "--set", "speed=9"], "has no parameter 'speed'"),
        (["eval", "--out", "x", "--temperature", "-1"], "--temperature must be at least 0"),
        (["eval", "--out", "x", "--top-p", "0"], "--top-p must lie in (0, 1]"),
        (["eval", "--out", "x", "--runtime", "both", "--program", "direct"], "--runtime is draft or target"),
        (["eval", "--out", "x", "--in-flight", "0"], "--in-flight must be at least 1"),
        (["eval", "--out", "x", "--calibration", "none.json"], "calibration card none.json does not exist"),
        (["eval", "--out", "x", "--calibration", "."], "calibration card . cannot be used"),
        (["solve", "1 + 1?"], "no draft and no target runtime"),
        (["solve", "1 + 1?", "--alpha", "-3"], "strictly between 0 and 1"),
        (["calibrate", "--out", "x", "--program", "direct"], "needs one runtime"),
        (["eval"], "--out"),
        (["evaluate"], "No such command"),
    ],
)
def test_bad_input_is_told_on_stderr_with_status_2(arguments, what, tmp_path):
    done = a1(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert what in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "x").exists()


def test_lists_fit_80_columns():
    for command, words in (("tasks", ["chain", "calibration, test"]), ("programs", ["a1", "direct", "take_over"])):
        done = a1(command)
        assert done.returncode == 0
        assert all(word in done.stdout for word in words)
        assert max(map(len, done.stdout.splitlines())) <= 80


def test_doctor_without_and_with_runtimes(runtimes, tmp_path):
    alone = a1("doctor", cwd=tmp_path)
    assert alone.returncode == 0, alone.stdout
    assert "none" in alone.stdout
    found = a1("doctor", "--draft", runtimes["draft"].url, "--target", runtimes["stranger"].url, cwd=tmp_path)
    assert found.returncode == 0, found.stdout
    assert "two tokenizers" in found.stdout
    broken = a1("doctor", "--draft", runtimes["draft"].url, "--target", "http://127.0.0.1:9", cwd=tmp_path)
    assert broken.returncode == 1
    assert "is the runtime up" in " ".join(broken.stdout.split())


def test_solve_shows_who_wrote_each_chunk_and_its_p_value(runtimes, tmp_path):
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url]
    question = "Start with 39. Multiply by 2. Subtract 18. Add 7. What is the result?"
    done = a1("solve", question, "--alpha", "0.5", *where, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("draft") and " p = 0." in line for line in lines)
    assert any(line.startswith("answer: ") for line in lines)
    assert max(map(len, lines)) <= 80


def test_calibrate_writes_a_card_that_eval_takes(runtimes, tmp_path):
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url, "--quiet"]
    made = a1("calibrate", "--out", "cal", "--questions", "4", "--chains", "2", *where, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    card = json.loads((tmp_path / "cal" / "card.json").read_text())
    assert len(card["questions"]) == 4
    assert card["score"] == "mean_loss"
    done = a1(
        "eval", "--out", "run", "--questions", "3", "--chains", "2", "--calibration", "cal/card.json", *where,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["configuration"]["models"]["draft"]["model"] == "draft"
    assert run["configuration"]["gate"]["calibration"] is not None
    assert run["environment"]["packages"]["sglang"]
