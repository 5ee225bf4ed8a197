import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from a1_sgl.answers import bare, boxes, final_answer, stated_answer
from a1_sgl.errors import A1Error, ConfigError, RecordFault
from a1_sgl.evals import grading
from a1_sgl.evals.grading_stage import Grading, grader_of, regrade
from a1_sgl.records import Recorder, RunFolder
from a1_sgl.types import Question

from .made import CONFIGURATION, asked, run, same, written


def graded(grader, answer, gold, **meta):
    return grading.grade(grader, answer, Question(id="q", messages=(), answer=gold, meta=meta))


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("0.5", "\\frac{1}{2}", True),
        ("\\dfrac12", "\\frac{1}{2}", True),
        ("(3, \\pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
        ("x^2 + 2x + 1", "(x+1)^2", True),
        ("2, 1", "1,2", True),
        ("(2, 1)", "(1, 2)", False),
        ("5\\text{ cm}", "5", True),
        ("90", "90^\\circ", True),
        ("$\\frac{3}{4}$", "\\frac{3}{4}", True),
        ("12342_8", "12342_{8}", True),
        ("12342_7", "12342_8", False),
        ("\\text{Evelyn}", "Evelyn", True),
        ("0.33", "\\frac{1}{3}", False),
        ("", "3", False),
        ("\\frac{", "3", False),
        ("p - q", "p-q", True),
        ("12^{\\mathrm{th}} \\text{ grade}", "12", True),
        ("12th grade", "12", True),
        ("12\\, \\text{cm}", "12", True),
        ("11th grade", "12", False),
        ("0.000067", ".0000672", False),
        ("0.0000672", ".0000672", True),
        ("5.4", "5.4 \\text{ cents}", True),
        ("4π", "4\\pi", True),
        ("1 and -2", "-2,1", True),
        ("5", "x=5", True),
        ("2 \\pi", "2", False),
        ("2x", "2", False),
        ("3i", "3", False),
        ("12 million", "12", False),
        ("12 \\text{ million}", "12", False),
        ("5 less than x", "5", False),
        ("6 Trinkets", "6", True),
    ],
)
def test_mathematics(answer, gold, right):
    assert graded("math", answer, gold).correct is right


def test_a_tolerance_is_the_questions_own():
    assert not graded("math", "3.14", "\\pi").correct
    assert graded("math", "3.14", "\\pi", tolerance=0.01).correct
    assert not graded("math", "3.2", "\\pi", tolerance=0.01).correct


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("27", "27.0", True), ("$1,234", "1234", True), ("1{,}234.0", "1234", True), ("70,000", "70000", True),
        ("540 \\text{ meters}", "540", True), ("3", "3.1", False), ("\\frac{54}{2}", "27", True), ("nan", "27", False),
        ("1,2", "12", False), ("025", "25", True),
    ],
)  # fmt: skip
def test_numbers(answer, gold, right):
    assert graded("number", answer, gold).correct is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", True), ("(b)", True), ("B. 12 m", True), ("\\text{B}", True), ("Option B", True), ("\\textbf{(B)}", True),
        ("The answer is B", True), ("\\boldsymbol{B}", True), ("B - 12 m", True), ("B, a metre", True),
        ("B, C", False), ("(B) and (C)", False), ("B) or A)", False), ("A", False), ("Both", False), ("BC", False),
        ("", False), ("12 m", False),
    ],
)  # fmt: skip
def test_choices(answer, right):
    assert graded("choice", answer, "B").correct is right


def test_no_answer_or_no_reference_is_wrong():
    assert not graded("math", None, "1").correct
    assert not graded("math", "1", None).correct


def test_equal_answers_have_one_key():
    keys = {graded("math", text, "7").key for text in ("0.5", "1/2", "\\frac{1}{2}", "\\dfrac12", "$\\frac12$")}
    assert len(keys) == 1
    assert graded("number", "27.0", "1").key == graded("number", "27", "1").key
    assert graded("choice", "(b)", "A").key == "B"
    for equal in (("1200", "1200 dollars", "x=1200", "1,200.0"), ("1024", "2^{10}"), ("\\sqrt{8}", "2\\sqrt{2}")):
        assert len({graded("number", text, "7").key for text in equal}) == 1, equal
    assert len({graded("math", text, "7").key for text in ("(x+1)^2", "x^2+2x+1")}) == 1


def test_text_that_is_no_mathematics_is_told():
    grade = graded("math", "", "")
    assert (grade.correct, grade.note) == (True, "not read as mathematics")


def test_a_pathological_answer_costs_its_time_limit_and_nothing_else(monkeypatch):
    monkeypatch.setattr(grading, "SECONDS", 2.0)
    grade = graded("math", "9^{9^{9^{9^9}}}", "3")
    assert (grade.correct, grade.note) == (False, "comparison not finished within 2 s")
    monkeypatch.undo()
    assert graded("math", "0.5", "\\frac{1}{2}").correct  # the next one has a new worker
    assert "characters" in graded("math", "1+" * 5000 + "1", "5001").note


def test_grading_works_off_the_main_thread():
    found = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(graded("math", f"{i}/7", f"\\frac{{{i}}}{{7}}").correct))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{\\left\\{ 1, 2 \\right.}", ["\\left\\{ 1, 2 \\right."]),
        ("\\boxed{ unclosed \\boxed{5}", ["5"]),
        ("\\fbox{3} \\boxed {4}", ["3", "4"]),
        ("<think>maybe \\boxed{1}</think> It is \\boxed{2}.", ["1", "2"]),
    ],
)
def test_boxes_survive_what_models_write(text, found):
    assert boxes(text) == found
    assert final_answer(text) == found[-1]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("$\\boxed{3}$, $\\boxed{5}$, and $\\boxed{7}$.", "3, 5, 7"),
        ("\\boxed{1} and \\boxed{-2}", "1, -2"),
        ("\\(\\boxed{1}\\) or \\(\\boxed{2}\\)", "1, 2"),
        ("\\boxed{5} and \\boxed{5}", "5"),
        ("\\boxed{5}. Wait, no. \\boxed{6}", "6"),
        ("\\boxed{5} \\boxed{6}", "6"),
    ],
)
def test_boxes_that_stand_together_are_one_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 42.", "42"),
        ("**Final Answer:** $\\frac{1}{2}$", "\\frac{1}{2}"),
        ("The final answer is: **(B)**", "(B)"),
        ("<think>the answer is 3, or not</think> Hence the answer is 4.\n", "4"),
        ("<think>the answer is 3.</think> I do not know.", None),
        ("The answer is 3.5 m. The answer is \\boxed{7}.", "7"),
        ("no idea", None),
        ("The final answer is **7**.", "7"),
        ("put it within \\boxed{}.</think> The answer is 7.", "7"),
        ("The answer isn't known", None),
        ("\\boxed{" + "7" * 3000 + "}", None),
    ],
)
def test_an_answer_may_be_stated_without_a_box(text, answer):
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "inner"),
    [("$x$", "x"), ("\\(\\frac{1}{2}\\)", "\\frac{1}{2}"), (" **5**. ", "5"), ("$a$ and $b$", "$a$ and $b$"), ("", "")],
)
def test_bare(text, inner):
    assert bare(text) == inner


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{3}" + "\\quad" * 500 + " x \\boxed{5}", "5"),
        ("the answer is" + "\n" * 20_000, None),
        ("\\boxed{" * 3000, None),
        ("the answer is" + " " * 20_000 + "7", "7"),
        ("answer " * 20_000, None),
    ],
)
def test_loops_of_a_model_do_not_hold_up_a_run(text, answer):
    """Quadratic or exponential searching would take minutes here."""
    assert stated_answer(text) == answer


# --- the stage ------------------------------------------------------------------------------------------------


def opened(path, questions=2):
    folder = RunFolder.open(path, CONFIGURATION | {"questions": questions}, {})
    folder.ask(asked(questions).values())
    return folder


def tell(record, question, sample, answer):
    for event in written(question, sample, answer, record.folder.run["sessions"][-1]):
        record(event)


def test_chains_are_recorded_while_a_grader_takes_its_time(tmp_path):
    go, begun, graded = threading.Event(), threading.Event(), []

    def slow(answer, question):
        begun.set()
        go.wait(60)
        graded.append(answer)
        return same(answer, question)

    with opened(tmp_path) as folder, Grading(folder, asked(2), slow) as stage, Recorder(folder, stage.submit) as record:
        for sample in range(20):
            tell(record, "q0", sample, "1")
        assert begun.wait(60)
        assert graded == []
        assert len(RunFolder.read(tmp_path).finished) == 20
        assert folder.chains == []
        go.set()
    assert [c.sample for c in folder.chains] == list(range(20))
    assert RunFolder.read(tmp_path).chains == folder.chains


def test_an_error_in_grading_is_a_grade_with_a_note_and_no_loss(tmp_path):
    def picky(answer, question):
        if answer == "2":
            raise RuntimeError("no twos\nat all")
        if answer == "3":
            raise MemoryError
        return same(answer, question)

    with (
        opened(tmp_path) as folder,
        Grading(folder, asked(2), picky) as stage,
        Recorder(folder, stage.submit) as record,
    ):
        for sample, answer in enumerate("1231"):
            tell(record, "q0", sample, answer)
        tell(record, "stranger", 0, "1")
    assert record.lost == {}
    assert [(c.correct, c.note) for c in RunFolder.read(tmp_path).chains] == [
        (True, None), (False, "grading failed: RuntimeError: no twos"), (False, "grading failed: MemoryError: "),
        (True, None), (False, "grading failed: KeyError: 'stranger'"),
    ]  # fmt: skip


def test_a_resume_grades_what_is_missing_and_nothing_else(tmp_path):
    seen = []

    def watched(answer, question):
        seen.append(answer)
        return same(answer, question)

    run(tmp_path, [["1", "2"], ["3", "1"]])
    lines = (tmp_path / "grades.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "grades.jsonl").write_text("".join(lines[:2]))
    with opened(tmp_path) as folder, Grading(folder, asked(2), watched):
        pass
    assert seen == ["3", "1"]
    assert (tmp_path / "grades.jsonl").read_text() == "".join(lines)


def test_an_interrupted_wait_leaves_the_rest_for_the_next_session(tmp_path):
    go = threading.Event()

    def stuck(answer, question):
        go.wait(30)
        return same(answer, question)

    def interrupt():
        raise KeyboardInterrupt

    with opened(tmp_path) as folder:
        stage = Grading(folder, asked(2), stuck, interrupt).__enter__()
        with Recorder(folder, stage.submit) as record:
            for sample in range(3):
                tell(record, "q0", sample, "1")
        with pytest.raises(KeyboardInterrupt):
            stage.__exit__(None, None, None)
    go.set()
    stage._thread.join(5)
    assert RunFolder.read(tmp_path).chains == []
    with opened(tmp_path) as folder, Grading(folder, asked(2), same):
        assert len(folder.finished) == 3
    assert len(RunFolder.read(tmp_path).chains) == 3


def test_grades_that_cannot_be_written_are_told_at_the_end(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    def session(body=lambda: None):
        with opened(tmp_path) as folder:
            monkeypatch.setattr(folder._grades_file, "write", full)
            with Grading(folder, asked(2), same) as stage, Recorder(folder, stage.submit) as record:
                for sample in range(len(folder.finished), len(folder.finished) + 3):
                    tell(record, "q0", sample, "1")
                body()

    with pytest.raises(RecordFault, match=r"grades\.jsonl cannot be written: No space left"):
        session()

    def fail():
        raise A1Error("first")

    with pytest.raises(A1Error, match="first"):  # what came first is what is told
        session(fail)
    with opened(tmp_path) as folder, Grading(folder, asked(2), same):
        pass
    assert len(RunFolder.read(tmp_path).chains) == 6


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from a1_sgl.evals import grading
from a1_sgl.evals.grading_stage import Grading
from a1_sgl.records import Recorder, RunFolder
from made import asked, written

def grade(answer, question):
    print("grading", flush=True)
    return grading.grade("math", answer, question)

if __name__ == "__main__":
    grading.SECONDS = 3.0
    if sys.argv[3] == "warm":
        grading.grade("math", "2/2", asked(1)["q0"])
    with RunFolder.open(Path(sys.argv[1]), {}, {}) as folder:
        folder.ask(asked(1).values())
        try:
            with Grading(folder, asked(1), grade) as stage, Recorder(folder, stage.submit) as record:
                for event in written("q0", 0, "9^{9^{9^{9^9}}}", 0.0) + written("q0", 1, "3/3", 0.0):
                    record(event)
                sys.stdin.read()
        except KeyboardInterrupt:
            pass
"""


@pytest.mark.parametrize("worker", ["warm", "cold"])
def test_ctrl_c_does_not_reach_the_process_that_compares(tmp_path, worker):
    """A terminal sends it to all; an answer that is being compared would be wrong for it. Nor while it starts."""
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), str(Path(__file__).parent), worker],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        # Where the tests run in the background, Ctrl-C is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert child.stdout.readline() == "grading\n"
    time.sleep(1 if worker == "warm" else 0.2)  # a process takes longer than that to import what it compares with
    os.killpg(child.pid, signal.SIGINT)
    child.communicate(timeout=60)
    first, second = RunFolder.read(tmp_path / "run").chains
    assert (first.correct, first.note) == (False, "comparison not finished within 3 s")
    assert (second.correct, second.note) == (True, None)


# --- anew -----------------------------------------------------------------------------------------------------


def test_a_run_is_graded_anew_without_a_model(tmp_path):
    run(tmp_path, [["1", "1.0"], ["2", None]], grader="number")
    (tmp_path / "summary.json").write_text('{"alarms": [1], "accuracy": 0}')
    assert [c.correct for c in RunFolder.read(tmp_path).chains] == [True, False, False, False]
    found = regrade(tmp_path)
    assert (found.chains, found.right, found.wrong, found.reworded, found.new) == (4, 1, 0, 0, 0)
    again = RunFolder.read(tmp_path)
    assert [c.correct for c in again.chains] == [True, True, False, False]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["accuracy"]["mean"] == 0.5
    assert summary["alarms"] == [1]  # what the record does not say stays
    assert len(again.run["sessions"]) == 1
    assert regrade(tmp_path).right == 0
    assert regrade(tmp_path, "exact").wrong == 1


def test_grading_anew_grades_what_had_no_grade_and_survives_a_torn_line(tmp_path):
    run(tmp_path, [["1", "2"]])
    (tmp_path / "grades.jsonl").write_text('{"question":"q0"')
    found = regrade(tmp_path)
    assert (found.chains, found.new) == (2, 2)
    assert [c.correct for c in RunFolder.read(tmp_path).chains] == [True, False]


def test_grading_anew_is_refused_while_a_run_goes_on_or_without_its_questions(tmp_path):
    with opened(tmp_path / "run"), pytest.raises(ConfigError, match="this process .* is writing"):
        regrade(tmp_path / "run")
    run(tmp_path / "other", [["1"]])
    (tmp_path / "other" / "questions.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"questions\.jsonl does not hold question q0"):
        regrade(tmp_path / "other")
    with pytest.raises(ConfigError, match="unknown grader 'taste'; known: exact, number"):
        regrade(tmp_path / "other", "taste")
    with pytest.raises(ConfigError, match="holds no run"):
        regrade(tmp_path / "none")


def test_a_runs_grader_is_on_record():
    assert grader_of({"grader": "choice", "task": "mine"}) == "choice"


def test_the_command_says_how_many_grades_changed(tmp_path, capsys):
    from a1_sgl.cli import grade as command

    run(tmp_path, [["1", "1.0"], ["2", "word"]], grader="number")
    command.grade(tmp_path, again=True)
    said = capsys.readouterr().out
    assert "4 chains graded, " in said
    assert "1 from wrong to right, 0 from right to wrong" in said
    for both in ({"again": True, "judge": "http://x"}, {}):
        with pytest.raises(ConfigError, match="either --again, to grade anew, or --judge URL"):
            command.grade(tmp_path, **both)
