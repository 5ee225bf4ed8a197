import json
import threading

import pytest

from a1_sgl.errors import A1Error, ConfigError, RecordFault
from a1_sgl.evals.grading_stage import Grading, grader_of, regrade
from a1_sgl.records import Recorder, RunFolder

from .made import CONFIGURATION, asked, run, same, written

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


def test_the_command_says_how_many_grades_changed(tmp_path):
    from typer.testing import CliRunner

    from a1_sgl import cli as command

    command._register()
    run(tmp_path, [["1", "1.0"], ["2", "word"]], grader="number")

    def grade(*options):
        return CliRunner(env={"COLUMNS": "200"}).invoke(command.app, ["grade", str(tmp_path), *options])

    said = grade("--again").stdout
    assert "4 chains graded, " in said
    assert "1 from wrong to right, 0 from right to wrong" in said
    for both in (["--again", "--judge", "http://x"], []):
        with pytest.raises(ConfigError, match="either --again, to grade anew, or --judge URL"):
            raise grade(*both).exception
