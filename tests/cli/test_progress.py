import io

import pytest
from rich.console import Console

from a1_sgl.cli import progress
from a1_sgl.records import Recorder, RunFolder
from a1_sgl.types import Call, ChainEvent, ChunkEvent, Grade, LostEvent, Question


@pytest.fixture
def recorder(tmp_path):
    def made(name="run"):
        folder = RunFolder.open(tmp_path / name, {"chains": 2}, {})
        folder.ask([Question(id="q", messages=(), answer="1")])
        return Recorder(folder, lambda chain: folder.grade(chain, Grade(chain.answer == "1", chain.answer)))

    return made


def finish(record, sample, answer, tokens=50):
    begun = record.folder.run["sessions"][-1]
    call = Call(runtime="draft-0", role="draft", kind="decode", prompt_tokens=1, cached_tokens=0,
                completion_tokens=tokens, started=begun + 0.1, ended=begun + 0.2)  # fmt: skip
    record(ChunkEvent(question="q", sample=sample, turn=0, author="draft", text=answer, tokens=tokens, ended=True,
                      calls=(call,)))  # fmt: skip
    record(ChainEvent(question="q", sample=sample, text=answer, answer=answer, ending="ended", turns=1, take_overs=0,
                      started=begun, ended=begun + 0.3))  # fmt: skip


def shown(monkeypatch, terminal):
    out = io.StringIO()
    for screen in ("console", "errors"):
        monkeypatch.setattr(progress, screen, Console(file=out, force_terminal=terminal, width=80))
    return out


def test_lines_where_there_is_no_terminal(recorder, monkeypatch):
    out, record = shown(monkeypatch, False), recorder()
    with progress.progress("a1", False) as report:
        report(record, 4)
        finish(record, 0, "1")
        finish(record, 1, "2")
        record(LostEvent(question="q", sample=2, error="x"))
        report(record, 4)
    first, last = out.getvalue().splitlines()
    assert first == "a1: 0/4 chains"
    assert last.startswith("a1: 2/4 chains, accuracy 50.0% [")
    assert "draft " in last
    assert " tok/s" in last
    assert " left" in last
    assert last.endswith("1 chains lost")


def test_a_display_on_a_terminal_fits_it(recorder, monkeypatch):
    out, record = shown(monkeypatch, True), recorder()
    with progress.progress("a1", False) as report:
        finish(record, 0, "1")
        report(record, 4)
    assert "1/4" in out.getvalue()
    assert "accuracy 100.0%" in out.getvalue()


def test_quiet_is_quiet(monkeypatch):
    out = shown(monkeypatch, True)
    with progress.progress("a1", True) as report:
        assert report is None
    assert out.getvalue() == ""


def test_each_run_is_counted_for_itself(recorder):
    state, first, second = progress.State(), recorder("a"), recorder("b")
    finish(first, 0, "1")
    state.see(first)
    state.see(first)
    assert state.accuracy().startswith("accuracy 100.0%")
    finish(second, 0, "2")
    state.see(second)
    assert state.accuracy().startswith("accuracy 0.0%")
    assert "draft" in state.speed(2)


def test_chains_are_counted_when_they_finish_and_accuracy_when_they_are_graded(recorder, monkeypatch):
    out, record, waiting = shown(monkeypatch, False), recorder(), []
    finish(record, 0, "1")
    record._on_chain = waiting.append
    finish(record, 1, "2")
    with progress.progress("a1", False) as report:
        report(record, 2)
        record.folder.grade(waiting[0], Grade(False, "2"))
    assert out.getvalue().startswith("a1: 2/2 chains, accuracy 100.0% [")
    state = progress.State()
    state.see(record)
    assert state.accuracy().startswith("accuracy 50.0%")
