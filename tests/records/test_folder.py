import json
import os
import signal
import subprocess
import sys

import pytest

from a1_sgl.errors import A1Error, ConfigError, RecordFault
from a1_sgl.records import Finished, Recorder, RunFolder, files
from a1_sgl.records.folder import STOPPED
from a1_sgl.types import (
    CalibrationEvent,
    Call,
    ChainEvent,
    ChunkEvent,
    DropEvent,
    Grade,
    LostEvent,
    PromptEvent,
    Question,
    Usage,
    VerdictEvent,
)

CONFIGURATION = {"task": "chain", "gate": {"alpha": 0.3}, "questions": 2}
QUESTION = Question(id="q", messages=({"role": "user", "content": "?"},), answer="7")
CALL = Call(
    runtime="draft-0", role="draft", kind="decode", prompt_tokens=5, cached_tokens=4, completion_tokens=2, started=1.0,
    ended=2.0,
)  # fmt: skip


def chunk(sample, text="7", question="q"):
    return ChunkEvent(
        question=question, sample=sample, turn=0, author="draft", text=text, tokens=2, ended=True, calls=(CALL,)
    )


def end(sample, answer="7", question="q", **changes):
    return ChainEvent(
        question=question, sample=sample, text="7", answer=answer, ending="ended", turns=1, take_overs=0, started=1.0,
        ended=2.0, **changes,
    )  # fmt: skip


def verdict(sample, score):
    return VerdictEvent(question="q", sample=sample, turn=0, score=score, tokens=2, take_over=False, replaced=False)


def opened(path, together=1, **changes):
    folder = RunFolder.open(path, CONFIGURATION | changes, {}, together=together)
    folder.ask([QUESTION])
    return folder


def write(path, *events, together=1):
    """One session that is told of `events`; chains are graded as they finish."""
    with opened(path, together) as folder:
        with Recorder(folder, lambda chain: folder.grade(chain, Grade(chain.answer == "7", chain.answer))) as record:
            for event in events:
                record(event)
        return record


def finished(sample, **changes):
    row = {
        "question": "q", "sample": sample, "gold": "7", "answer": "7", "ending": "ended", "turns": 1, "take_overs": 0,
        "decode": {}, "prefill": {}, "started": 1.0, "ended": 2.0, "text": "",
    }  # fmt: skip
    return Finished(**row | changes)


# --- what is written ------------------------------------------------------------------------------------------


def test_a_finished_chain_is_written_with_its_events_and_graded_apart(tmp_path):
    write(tmp_path / "run", PromptEvent(question="q", call=CALL), chunk(0), chunk(1), end(0), end(1, "8"))
    folder = RunFolder.read(tmp_path / "run")
    assert [(c.sample, c.correct, c.key, c.decode) for c in folder.chains] == [
        (0, True, "7", {"draft": 2}), (1, False, "8", {"draft": 2}),
    ]  # fmt: skip
    assert [e.event for e in folder.events] == ["prompt", "chunk", "chain", "chunk", "chain"]
    assert folder.done() == {("q", 0), ("q", 1)}
    assert "correct" not in (tmp_path / "run" / "chains.jsonl").read_text()
    assert [json.loads(line) for line in (tmp_path / "run" / "grades.jsonl").read_text().splitlines()] == [
        {"question": "q", "sample": 0, "correct": True, "key": "7", "note": None},
        {"question": "q", "sample": 1, "correct": False, "key": "8", "note": None},
    ]


def test_a_chain_is_on_record_at_once_and_ungraded(tmp_path):
    told = []
    with opened(tmp_path / "run") as folder, Recorder(folder, told.append) as record:
        record(chunk(0))
        record(end(0))
        seen = RunFolder.read(tmp_path / "run")
        assert seen.done() == folder.done() == {("q", 0)}
        assert seen.chains == folder.chains == []
        assert seen.ungraded() == folder.ungraded() == seen.finished == told
        assert told[0].gold == "7"
        folder.grade(told[0], Grade(True, "7", "a note"))
        assert RunFolder.read(tmp_path / "run").chains == folder.chains
        assert (folder.chains[0].correct, folder.chains[0].note) == (True, "a note")
        with pytest.raises(A1Error, match="graded in .* already"):
            folder.grade(told[0], Grade(False))


def test_grades_survive_a_resume_and_those_that_are_missing_are_known(tmp_path):
    write(tmp_path / "run", chunk(0), end(0))
    with opened(tmp_path / "run") as folder:
        Recorder(folder)(end(1))
    with opened(tmp_path / "run") as folder:
        assert folder.done() == {("q", 0), ("q", 1)}
        assert [c.sample for c in folder.chains] == [0]
        assert [c.sample for c in folder.ungraded()] == [1]


def test_of_two_grades_the_last_one_counts(tmp_path):
    write(tmp_path / "run", end(0))
    with (tmp_path / "run" / "grades.jsonl").open("a") as file:
        file.write('{"question":"q","sample":0,"correct":false,"key":"x"}\n')
    assert [(c.correct, c.key) for c in RunFolder.read(tmp_path / "run").chains] == [(False, "x")]


def test_all_grades_are_replaced_in_one_piece(tmp_path):
    write(tmp_path / "run", end(0), end(1, "8"))
    with opened(tmp_path / "run") as folder:
        Recorder(folder)(end(2))
    with RunFolder.edit(tmp_path / "run") as folder:
        changes = folder.grade_anew({("q", 0): Grade(True, "7"), ("q", 1): Grade(True, "8"), ("q", 2): Grade(False)})
        assert [(old and old.correct, new.correct) for old, new in changes] == [(False, True), (None, False)]
    again = RunFolder.read(tmp_path / "run")
    assert [c.correct for c in again.chains] == [c.correct for c in folder.chains] == [True, True, False]
    assert len(again.run["sessions"]) == 2  # no session is begun by it


def test_records_are_plain_json_lines(tmp_path):
    write(tmp_path / "run", chunk(0, "line\n\u2028separator"), end(0))
    lines = (tmp_path / "run" / "events.jsonl").read_text().split("\n")
    assert [json.loads(line)["event"] for line in lines if line] == ["chunk", "chain"]
    assert Finished.model_validate_json((tmp_path / "run" / "chains.jsonl").read_text()).sample == 0
    assert RunFolder.read(tmp_path / "run").events[0].text == "line\n\u2028separator"


def test_a_folder_that_was_read_or_closed_is_not_written(tmp_path):
    write(tmp_path / "run", end(0))
    for folder in (RunFolder.read(tmp_path / "run"), opened(tmp_path / "run")):
        folder.close()
        for attempt in (
            lambda folder=folder: folder.append([chunk(1)]),
            lambda folder=folder: folder.grade(finished(1), Grade(True)),
            lambda folder=folder: folder.write_summary({}),
            lambda folder=folder: folder.grade_anew({}),
        ):
            with pytest.raises(A1Error, match="only read, or is closed"):
                attempt()


def test_a_chain_cannot_be_finished_twice(tmp_path):
    with opened(tmp_path / "run") as folder:
        record = Recorder(folder)
        record(end(0))
        with pytest.raises(A1Error, match="chain 0 of question q is in .* already"):
            record(end(0))
    assert len(RunFolder.read(tmp_path / "run").finished) == 1


def test_events_after_a_chains_end_are_kept(tmp_path):
    """A program begins a chunk ahead, and it turns out that the chain has ended."""
    late = DropEvent(question="q", sample=0, turn=1, author="draft", tokens=2, reason="stopped", calls=(CALL,))
    write(tmp_path / "run", chunk(0), end(0), late)
    folder = RunFolder.read(tmp_path / "run")
    assert folder.events[-1] == late
    assert Usage.of(folder.events).decode == {"draft": 4}
    assert folder.chains[0].decode == {"draft": 2}


def test_a_chain_is_written_at_once_however_many_events_it_has(tmp_path, monkeypatch):
    """No file is opened, written or flushed for each event."""
    written = []
    write_at_once = files.Appender.write
    monkeypatch.setattr(files.Appender, "write", lambda self, data: (written.append(data), write_at_once(self, data)))
    with opened(tmp_path / "run") as folder, Recorder(folder) as record:
        for _ in range(2_000):
            record(chunk(0, "x" * 200))
        assert written == []
        record(end(0))
        assert len(written) <= 2  # its events, and its chain where it is graded
    assert len(RunFolder.read(tmp_path / "run").events) == 2_001


# --- chains that broke off ------------------------------------------------------------------------------------


def test_of_a_lost_chain_its_calls_stay(tmp_path):
    record = write(tmp_path / "run", chunk(0), chunk(1), chunk(1), LostEvent(question="q", sample=1, error="boom"))
    assert record.errors() == {"boom": 1}
    folder = RunFolder.read(tmp_path / "run")
    assert folder.chains == folder.finished == []
    assert [(e.event, e.sample, e.error, len(e.calls)) for e in folder.events] == [
        ("lost", 1, "boom", 2), ("lost", 0, STOPPED, 1),  # under way at the end: no error
    ]  # fmt: skip
    assert folder.lost() == {("q", 1): "boom"}
    usage = Usage.of(folder.events)
    assert usage.decode == usage.dropped == {"draft": 6}
    assert (usage.prefill, usage.prompt, usage.cached) == ({"draft": 3}, 15, 12)


def test_what_is_told_of_a_chain_after_its_loss_is_paid_for_and_in_no_other_chain(tmp_path):
    drop = DropEvent(question="q", sample=0, turn=0, author="draft", tokens=2, reason="lost")
    lost = LostEvent(question="q", sample=0, error="boom")
    begun = drop.model_copy(update={"calls": (CALL,)})
    write(tmp_path / "run", chunk(0), lost, drop, begun, chunk(0), end(0))
    folder = RunFolder.read(tmp_path / "run")
    assert [e.event for e in folder.events] == ["lost", "lost", "chunk", "chain"]
    assert Usage.of(folder.events).decode == {"draft": 6}
    assert Usage.of(folder.events).dropped == {"draft": 4}


def test_a_chain_that_runs_again_is_counted_once_and_paid_for_twice(tmp_path):
    write(tmp_path / "run", chunk(0), LostEvent(question="q", sample=0, error="boom"))
    record = write(tmp_path / "run", chunk(0), end(0))
    assert record.lost == {}
    folder = RunFolder.read(tmp_path / "run")
    assert folder.lost() == {}
    assert len(folder.chains) == 1
    assert folder.chains[0].decode == {"draft": 2}
    assert Usage.of(folder.events).decode == {"draft": 4}
    assert Usage.of(folder.events).dropped == {"draft": 2}


def test_a_number_that_json_has_not_loses_the_chain_and_spoils_nothing(tmp_path):
    nan = float("nan")
    record = write(
        tmp_path / "run", chunk(0), verdict(0, nan), end(0), chunk(1), verdict(1, 1.0), end(1),
        chunk(2), end(2, rating=float("inf")),
        ChunkEvent(question="q", sample=3, turn=0, author="draft", text="", tokens=2, ended=True,
                   calls=(CALL, CALL.model_copy(update={"ended": nan}))), end(3),
    )  # fmt: skip
    assert record.lost == {
        ("q", 0): "verdict.score is nan, which cannot be recorded",
        ("q", 2): "chain.rating is inf, which cannot be recorded",
        ("q", 3): "chunk.calls.ended is nan, which cannot be recorded",
    }
    folder = RunFolder.read(tmp_path / "run")
    assert folder.done() == {("q", 1)}
    assert folder.lost() == record.lost
    assert Usage.of(folder.events).decode == {"draft": 8}  # all but the call that cannot be written
    for name in ("events.jsonl", "chains.jsonl"):
        assert not {"NaN", "Infinity"} & set((tmp_path / "run" / name).read_text().replace(":", " ").split())
    with pytest.raises(A1Error, match=r"question q: calibration\.score is nan"):
        write(tmp_path / "run", CalibrationEvent(question="q", score=nan, tokens=1, calls=()))


def test_a_summary_has_null_for_what_json_has_not(tmp_path):
    with opened(tmp_path / "run") as folder:
        folder.write_summary({"a": float("inf"), "b": [{"c": float("nan")}, 1.5]})
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == {"a": None, "b": [{"c": None}, 1.5]}


# --- crashes --------------------------------------------------------------------------------------------------


def test_a_torn_record_is_dropped_and_the_rest_resumed(tmp_path):
    """Killed between the events and the chain's line, and in the middle of a line, within a character."""
    path = tmp_path / "run"
    write(path, chunk(0), end(0))
    kept = {name: (path / name).read_bytes() for name in ("chains.jsonl", "grades.jsonl")}
    with (path / "events.jsonl").open("ab") as file:
        file.write(chunk(1).model_dump_json().encode() + b"\n" + chunk(2, "é" * 9).model_dump_json().encode()[:-55])
    with (path / "chains.jsonl").open("ab") as file:
        file.write(kept["chains.jsonl"].strip().replace(b'"sample":0', b'"sample":1')[:-3] + "é".encode()[:1])
    with (path / "grades.jsonl").open("ab") as file:
        file.write(kept["grades.jsonl"][:9])
    assert [e.event for e in RunFolder.read(path).events] == ["chunk", "chain"]
    for _ in range(2):  # what is mended once is not mended again
        with opened(path) as folder:
            assert folder.done() == {("q", 0)}
            assert [e.event for e in folder.events] == ["chunk", "chain", "lost"]
            assert folder.lost() == {}
        assert [json.loads(line)["event"] for line in (path / "events.jsonl").read_text().splitlines()] == [
            "chunk", "chain", "lost",
        ]  # fmt: skip
        assert {name: (path / name).read_bytes() for name in kept} == kept
    assert Usage.of(RunFolder.read(path).events).decode == {"draft": 4}
    assert len(json.loads((path / "run.json").read_text())["sessions"]) == 3


def test_a_question_that_was_broken_off_begins_anew_and_stays_paid_for(tmp_path):
    path = tmp_path / "run"
    calibration = CalibrationEvent(question="q", score=1.0, tokens=2, calls=(CALL,))
    prompt = PromptEvent(question="q", call=CALL)
    write(path, prompt, calibration, chunk(0), end(0), chunk(1), together=2)
    before = Usage.of(RunFolder.read(path).events)
    assert before.decode == {"draft": 8}
    with opened(path, together=2) as folder:
        assert folder.done() == set()
        assert folder.chains == folder.finished == []
        assert {e.event for e in folder.events} == {"prompt", "lost"}
        assert Usage.of(folder.events).decode == before.decode
    assert (path / "chains.jsonl").read_text() == (path / "grades.jsonl").read_text() == ""
    write(path, prompt, chunk(0), end(0, "8"), chunk(1), end(1), together=2)
    again = RunFolder.read(path)
    assert [(c.sample, c.correct) for c in again.chains] == [(0, False), (1, True)]  # graded anew
    assert Usage.of(again.events).decode == {"draft": 14}


def test_a_mend_that_was_killed_half_way_is_made_again(tmp_path):
    path = tmp_path / "run"
    write(path, chunk(0), end(0), together=2)
    before = (path / "chains.jsonl").read_bytes(), (path / "grades.jsonl").read_bytes()
    opened(path, together=2).close()
    (path / "chains.jsonl").write_bytes(before[0])
    (path / "grades.jsonl").write_bytes(before[1])
    with opened(path, together=2) as folder:
        assert folder.finished == folder.chains == []
        assert Usage.of(folder.events).decode == {"draft": 2}


def test_wall_clock_counts_sessions_not_the_time_between(tmp_path):
    with opened(tmp_path / "run") as folder:
        folder.run["sessions"] = [100.0, 500.0]
        folder.append([end(0).model_copy(update={"ended": 110.0}), end(1).model_copy(update={"ended": 520.0})])
        assert folder.wall() == pytest.approx(30.0)


# --- refusals -------------------------------------------------------------------------------------------------


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    path = tmp_path / "run"
    write(path, end(0))
    before = (path / "chains.jsonl").read_text()
    with pytest.raises(ConfigError, match=r"gate\.alpha: 0\.3 before, 0\.4 now") as caught:
        opened(path, gate={"alpha": 0.4})
    assert "questions" not in str(caught.value)
    assert (path / "chains.jsonl").read_text() == before
    opened(path).close()  # the lock was given back


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match="holds no run"), RunFolder.edit(tmp_path):
        pass
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_a_run_that_was_killed_before_its_first_word_begins_again(tmp_path):
    (tmp_path / "lock").write_text("1 elsewhere\n")
    (tmp_path / "run.json.tmp").write_text('{"sche')
    opened(tmp_path).close()
    assert RunFolder.read(tmp_path).finished == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 99}', "{}"])
def test_an_unreadable_run_says_so(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    for attempt in (RunFolder.read, opened):
        with pytest.raises(ConfigError, match="run|schema"):
            attempt(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]


def test_another_schema_is_named_with_what_reads_it(tmp_path):
    (tmp_path / "run.json").write_text('{"schema": 2, "configuration": {}}')
    with pytest.raises(ConfigError, match="written with record schema 2, and this version reads 4; read it with the"):
        RunFolder.read(tmp_path)


def test_no_run_and_no_permission(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        RunFolder.read(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file is a file; a run needs a folder of its own"):
        opened(tmp_path / "file")


def test_a_chain_that_is_there_twice_is_refused_with_the_fix(tmp_path):
    path = tmp_path / "run"
    write(path, chunk(0), end(0), chunk(1), end(1))
    lines = (path / "chains.jsonl").read_text().splitlines(keepends=True)
    (path / "chains.jsonl").write_text("".join([*lines, lines[0]]))
    for attempt in (RunFolder.read, opened):
        with pytest.raises(
            ConfigError, match=r"chains\.jsonl holds chain 0 of question q twice, in lines 1 and 3.*take"
        ):
            attempt(path)
    (path / "chains.jsonl").write_text(lines[1])  # as the message says
    with opened(path) as folder:
        assert folder.done() == {("q", 1)}
        assert Usage.of(folder.events).decode == {"draft": 4}
        assert [c.sample for c in folder.chains] == [1]


@pytest.mark.parametrize("name", ["events.jsonl", "chains.jsonl", "grades.jsonl", "questions.jsonl"])
def test_a_spoiled_line_is_named(tmp_path, name):
    path = tmp_path / "run"
    write(path, chunk(0), end(0))
    with (path / name).open("a") as file:
        file.write('{"event": "guess"}\n')
    count = len((path / name).read_text().splitlines())
    with pytest.raises(ConfigError, match=rf"{name}, line {count}: "):
        RunFolder.read(path).questions()


@pytest.mark.parametrize(
    ("name", "line", "why"),
    [
        ("events.jsonl", '{"event": "answer", "question": "q"}', "answer.answer: is missing"),
        ("events.jsonl", "{", "this is no JSON: EOF while parsing"),
        ("chains.jsonl", '{"question": 3}', "question: must be text, not 3"),
        ("grades.jsonl", "\udcff", "this is no JSON: "),
    ],
)
def test_what_is_wrong_with_a_spoiled_line_is_said(tmp_path, name, line, why):
    path = tmp_path / "run"
    write(path, chunk(0), end(0))
    with (path / name).open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ConfigError, match=rf"run/{name}, line [23]: this cannot be read: {why}"):
        RunFolder.read(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "run.json: this is no JSON"),
        (b"[]", "run.json: must be a mapping, not"),
        (b"{}", "run.json: schema: is missing"),
        (b'{"schema": 4, "environment": {}, "sessions": []}', "run.json: configuration: is missing"),
        (
            b'{"schema": 4, "configuration": [], "environment": {}, "sessions": []}',
            "run.json: configuration: must be a mapping",
        ),
    ],
)
def test_a_spoiled_head_is_named(tmp_path, content, why):
    write(tmp_path / "run", chunk(0), end(0))
    (tmp_path / "run" / "run.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"run is not a readable run: {why}"):
        RunFolder.read(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "this is no JSON"),
        (b"[]", "must be a mapping, not"),
        (b"\xff", "this is no JSON"),
        (None, "No such file"),
    ],
)
def test_a_whole_file_that_cannot_be_read_is_named(tmp_path, content, why):
    if content is not None:
        (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"settings.json cannot be read: {why}"):
        files.load(tmp_path / "settings.json", files.Mapped)


@pytest.mark.parametrize("left", [None, 0, 1])
def test_chains_without_their_events_are_no_record_of_what_they_cost(tmp_path, left):
    """No events at all, none, or the first chain's alone; nothing else is touched."""
    path = tmp_path / "run"
    write(path, chunk(0), end(0), chunk(1), end(1))
    events, chains = path / "events.jsonl", (path / "chains.jsonl").read_text()
    kept = events.read_text().splitlines(keepends=True)[: 2 * (left or 0)]
    events.unlink()
    if left is not None:
        events.write_text("".join(kept))
    what = "is missing" if left is None else f"does not tell of the end of {2 - left} chains"
    for read in (RunFolder.read, opened):
        with pytest.raises(ConfigError, match=rf"events.jsonl {what}, .* chain {left or 0} of question q first; put"):
            read(path)
    assert (path / "chains.jsonl").read_text() == chains
    lines = chains.splitlines(keepends=True)[: left or 0]
    (path / "chains.jsonl").write_text("".join(lines))
    with opened(path) as folder:
        assert len(folder.done()) == (left or 0)


# --- the lock -------------------------------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from a1_sgl.records import RunFolder
folder = RunFolder.open(Path(sys.argv[1]), {"task": "chain", "gate": {"alpha": 0.3}, "questions": 2}, {})
print("open", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time_writes_and_a_dead_one_does_not_count(tmp_path):
    path = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        for attempt in (opened, lambda path: RunFolder.edit(path).__enter__()):
            with pytest.raises(ConfigError, match=rf"another process \({other.pid} on .*\) is writing to {path}"):
                attempt(path)
        assert RunFolder.read(path).finished == []  # reading needs no lock
        with pytest.raises(ConfigError, match="is writing"), RunFolder.read(path).exclusive():
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
    opened(path).close()


def test_a_process_does_not_open_a_run_twice(tmp_path):
    path = tmp_path / "run"
    with opened(path) as folder:
        with pytest.raises(ConfigError, match=rf"this process \({os.getpid()}\)"):
            opened(path)
        with folder.exclusive():  # it has the lock already
            pass
        folder.append([chunk(0)])
    with opened(path):
        pass


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(files.NO_LOCKS[0], "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    opened(tmp_path / "run").close()
    assert "cannot be locked (No locks available)" in caplog.text


# --- disks that are full --------------------------------------------------------------------------------------


class Full:
    """A disk with room for so many bytes more, for files that lines are added to."""

    def __init__(self, monkeypatch, error=28):
        self.room, self.error = 10**9, error
        disk, real = self, files.io.FileIO

        class Limited(real):
            def write(self, data):
                if not disk.room:
                    raise OSError(disk.error, os.strerror(disk.error))
                part = bytes(data)[: disk.room]
                disk.room -= len(part)
                return super().write(part)

        monkeypatch.setattr(files.io, "FileIO", Limited)


@pytest.mark.parametrize("error", [28, 5, 27])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.8, 0.99])
def test_a_full_disk_leaves_a_record_that_can_be_read_and_gone_on_with(tmp_path, monkeypatch, share, error):
    """Wherever the write breaks off: in the events, between the files, or in the chain's line."""
    path, disk = tmp_path / "run", Full(monkeypatch, error)
    with opened(path) as folder, Recorder(folder) as record:
        for event in (chunk(0), end(0)):
            record(event)
        before = {one.name: one.read_bytes() for one in path.iterdir()}
        disk.room = int(share * (len(before["events.jsonl"]) + len(before["chains.jsonl"])))
        record(chunk(1))
        with pytest.raises(RecordFault, match=rf"jsonl cannot be written: {os.strerror(error)}.*: 1 finished chains"):
            record(end(1))
        assert ("q", 1) in record.lost
        assert {one.name: one.read_bytes() for one in path.iterdir()} == before
        assert folder.done() == {("q", 0)}
        assert [e.event for e in folder.events] == ["chunk", "chain"]
        disk.room = 10**9  # someone has freed space, and the run goes on
        record(chunk(2))
        record(end(2))
        disk.room = 3
        with pytest.raises(RecordFault, match=r"grades\.jsonl"):
            folder.grade(folder.finished[0], Grade(True))
        assert folder.chains == []
        record(chunk(3))  # and at the end what is under way cannot be written either
    assert RunFolder.read(path).done() == {("q", 0), ("q", 2)}
    disk.room = 10**9
    with opened(path) as folder:
        assert folder.done() == {("q", 0), ("q", 2)}
        folder.grade(folder.finished[0], Grade(True))
    assert len(RunFolder.read(path).chains) == 1


def test_what_cannot_be_cut_off_is_cut_off_before_the_next_line(tmp_path, monkeypatch):
    disk, cut = Full(monkeypatch), []
    file = files.Appender(tmp_path / "lines")
    file.write(b"one\n")
    monkeypatch.setattr(file, "_cut", lambda: cut.append(1) or (_ for _ in ()).throw(OSError(5, "no")))
    disk.room = 2
    with pytest.raises(OSError, match="No space"):
        file.write(b"two\n")
    assert (tmp_path / "lines").read_bytes() == b"one\ntw"
    with pytest.raises(OSError, match="no"):
        file.write(b"three\n")
    monkeypatch.undo()
    disk.room = 10**9
    file.write(b"four\n")
    assert (tmp_path / "lines").read_bytes() == b"one\nfour\n"
    assert cut == [1, 1]


LIMITED = """
import resource, sys
from pathlib import Path
from a1_sgl.errors import RecordFault
from a1_sgl.records import Recorder, RunFolder
from a1_sgl.types import ChainEvent
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
with RunFolder.open(Path(sys.argv[1]), {}, {}) as folder, Recorder(folder) as record:
    for sample in range(99):
        try:
            record(ChainEvent(question="q", sample=sample, text="x" * 300, answer=None, ending="ended", turns=1,
                              take_overs=0, started=0.0, ended=1.0))
        except RecordFault as error:
            print(sample, error)
            break
"""


def test_a_limit_on_the_size_of_files_is_met_with_an_error(tmp_path):
    """The kernel's own: a write that reaches it takes a part."""
    said = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path / "run")], capture_output=True, text=True)
    count, _, message = said.stdout.partition(" ")
    assert "cannot be written: File too large" in message, said.stderr
    assert f"{count} finished chains are kept" in message
    assert len(RunFolder.read(tmp_path / "run").finished) == int(count) > 3


def test_summaries_and_questions_that_cannot_be_written(tmp_path, monkeypatch):
    with opened(tmp_path / "run") as folder:
        folder.write_summary({"a": 1})

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(RecordFault, match=r"summary\.json cannot be written: No space left"):
            folder.write_summary({"a": 2})
        with pytest.raises(RecordFault, match=r"grades\.jsonl"):
            folder.grade_anew({})
        assert json.loads((tmp_path / "run" / "summary.json").read_text()) == {"a": 1}
        assert not list((tmp_path / "run").glob("*.tmp"))
    with pytest.raises(ConfigError, match="cannot be written: .*No space left"):
        opened(tmp_path / "other")
