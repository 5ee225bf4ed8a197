import json

import pytest

from a1_sgl.errors import ConfigError
from a1_sgl.records import ChainRecord, Recorder, RunFolder
from a1_sgl.types import Call, ChainEvent, ChunkEvent, Grade, LostEvent, PromptEvent, Question

CONFIGURATION = {"task": "chain", "gate": {"alpha": 0.3}, "questions": 2}
QUESTION = Question(id="q", messages=({"role": "user", "content": "?"},), answer="7")
CALL = Call(
    runtime="draft", kind="decode", prompt_tokens=5, cached_tokens=4, completion_tokens=2, started=1.0, ended=2.0
)


def chunk(sample, text="7"):
    return ChunkEvent(
        question="q", sample=sample, turn=0, author="draft", text=text, tokens=2, ended=True, calls=(CALL,)
    )


def end(sample, answer="7"):
    return ChainEvent(
        question="q", sample=sample, text="7", answer=answer, ending="ended", turns=1, take_overs=0, started=1.0,
        ended=2.0,
    )  # fmt: skip


def recorder(path):
    folder = RunFolder.open(path, CONFIGURATION, {})
    return Recorder(folder, {"q": QUESTION}, lambda answer, question: Grade(answer == question.answer))


def test_a_finished_chain_is_written_with_its_events_and_grade(tmp_path):
    record = recorder(tmp_path / "run")
    record(PromptEvent(question="q", call=CALL))
    for event in (chunk(0), chunk(1), end(0), end(1, "8")):
        record(event)
    folder = RunFolder.read(tmp_path / "run")
    assert [(c.sample, c.correct, c.decode) for c in folder.chains] == [
        (0, True, {"draft": 2}),
        (1, False, {"draft": 2}),
    ]
    assert [e.event for e in folder.events] == ["prompt", "chunk", "chain", "chunk", "chain"]
    assert folder.done() == {("q", 0), ("q", 1)}


def test_an_unfinished_chain_leaves_nothing(tmp_path):
    record = recorder(tmp_path / "run")
    record(chunk(0))
    record(chunk(1))
    record(LostEvent(question="q", sample=1, error="boom"))
    assert record.errors() == {"boom": 1}
    folder = RunFolder.read(tmp_path / "run")
    assert folder.chains == folder.events == []


def test_a_torn_record_is_dropped_and_the_rest_resumed(tmp_path):
    """Killed between the events and the chain's line, and in the middle of a line."""
    path = tmp_path / "run"
    record = recorder(path)
    record(chunk(0))
    record(end(0))
    with (path / "events.jsonl").open("a") as file:
        file.write(chunk(1).model_dump_json() + "\n" + chunk(2).model_dump_json()[:40])
    with (path / "chains.jsonl").open("a") as file:
        file.write((path / "chains.jsonl").read_text().strip().replace('"sample":0', '"sample":1')[:-3])
    folder = RunFolder.open(path, CONFIGURATION, {})
    assert folder.done() == {("q", 0)}
    assert len((path / "events.jsonl").read_text().splitlines()) == 2
    assert len((path / "chains.jsonl").read_text().splitlines()) == 1
    assert len(json.loads((path / "run.json").read_text())["sessions"]) == 2


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    path = tmp_path / "run"
    recorder(path)(end(0))
    before = (path / "chains.jsonl").read_text()
    with pytest.raises(ConfigError, match=r"gate\.alpha: 0\.3 before, 0\.4 now") as caught:
        RunFolder.open(path, CONFIGURATION | {"gate": {"alpha": 0.4}}, {})
    assert "questions" not in str(caught.value)
    assert (path / "chains.jsonl").read_text() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        RunFolder.open(tmp_path, CONFIGURATION, {})
    assert (tmp_path / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', "{}"])
def test_an_unreadable_run_says_so(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match="run|schema"):
        RunFolder.read(tmp_path)


def test_no_run_and_no_permission(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        RunFolder.read(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written"):
        RunFolder.open(tmp_path / "file", CONFIGURATION, {})


def test_wall_clock_counts_sessions_not_the_time_between(tmp_path):
    folder = RunFolder.open(tmp_path / "run", CONFIGURATION, {})
    folder.run["sessions"] = [100.0, 500.0]
    folder.append([end(0).model_copy(update={"ended": 110.0}), end(1).model_copy(update={"ended": 520.0})])
    assert folder.wall() == pytest.approx(30.0)


def test_records_are_plain_json_lines(tmp_path):
    record = recorder(tmp_path / "run")
    record(chunk(0, "line\n\u2028separator"))
    record(end(0))
    lines = (tmp_path / "run" / "events.jsonl").read_text().split("\n")
    assert [json.loads(line)["event"] for line in lines if line] == ["chunk", "chain"]
    assert ChainRecord.model_validate_json((tmp_path / "run" / "chains.jsonl").read_text()).sample == 0
    assert RunFolder.read(tmp_path / "run").events[0].text == "line\n\u2028separator"
