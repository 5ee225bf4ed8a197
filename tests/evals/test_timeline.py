"""A trace has every request once, no two things at once on a track, and the seconds that the accounting has."""

import gzip
import itertools
import json
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1_sgl.errors import ConfigError
from a1_sgl.evals.runner import Eval, evaluate
from a1_sgl.evals.speed.waits import shares, waits
from a1_sgl.evals.tasks import find_task
from a1_sgl.evals.timeline import Slice, Timeline, Window, lanes, phases, pieces, union, write
from a1_sgl.records import RunFolder
from a1_sgl.types import Call, ChainEvent, ChunkEvent, LostEvent, PromptEvent, VerdictEvent, calls_of

from .made import run

seconds = st.floats(0, 50, width=32)
maybe = st.none() | st.floats(0, 3, width=32)


@st.composite
def records(draw):
    """Events of a few questions' chains: their requests one after another, at times two at once, with times between."""
    events = []
    for question in ("a", "b")[: draw(st.integers(1, 2))]:
        asked = draw(seconds)
        prompt = Call(
            runtime="target", role="target", kind="prefill", prompt_tokens=9, cached_tokens=0, completion_tokens=0,
            started=asked, ended=asked + 0.5,
        )  # fmt: skip
        events.append(PromptEvent(question=question, call=prompt))
        for sample in range(draw(st.integers(1, 3))):
            at = begun = asked + 0.5 + draw(seconds)
            name = {"question": question, "sample": sample}
            for turn in range(draw(st.integers(0, 3))):
                for kind, role in (("decode", "draft"), ("verify", "target")):
                    took = draw(st.floats(0, 5, width=32))
                    call = Call(
                        runtime=role, role=role, kind=kind, prompt_tokens=9, cached_tokens=4, completion_tokens=3,
                        started=at, ended=at + took, served_s=draw(maybe), queue_s=draw(maybe), prefill_s=draw(maybe),
                    )  # fmt: skip
                    if kind == "decode":
                        events.append(ChunkEvent(
                            **name, turn=turn, author=role, text="x", tokens=3, ended=False, calls=(call,)
                        ))  # fmt: skip
                    else:
                        events.append(VerdictEvent(
                            **name, turn=turn, score=1.0, tokens=3, take_over=False, replaced=False, call=call
                        ))  # fmt: skip
                    at += draw(st.sampled_from([0.0, took, took + 0.25]))  # at 0 the next one is under way beside it
            end = max(
                [begun, *(c.ended for e in events if getattr(e, "sample", None) == sample for c in calls_of([e]))]
            )
            events.append(ChainEvent(
                **name, text="x", answer=None, ending="turns", turns=1, take_overs=0, started=begun,
                ended=end + draw(st.sampled_from([0.0, 1.5])),
            ))  # fmt: skip
    return events


def apart(track):
    return all(before.end <= after.start for before, after in itertools.pairwise(track))


@given(records(), st.booleans())
def test_every_request_is_there_once_and_nothing_overlaps(events, joint):
    found = Timeline.of(events, joint=joint)
    sent = [one for of in found.runtimes.values() for lane in of for one in lane]
    assert sorted(map(id, calls_of(events))) == sorted(id(one.call) for one in sent)
    for of in (*found.runtimes.values(), *found.chains.values()):
        assert all(apart(lane) for lane in of)
        assert all(one.end >= one.start for lane in of for one in lane)
    for one in sent:
        if parts := phases(one):
            assert (one.start, one.end) == (parts[0][1], parts[-1][2])
        assert all(before[2] == after[1] for before, after in itertools.pairwise(parts))


@given(records(), st.booleans())
def test_the_seconds_are_those_of_the_accounting(events, joint):
    found, calls = Timeline.of(events, joint=joint), calls_of(events)
    summary = found.summary()
    for runtime, figures in summary["runtimes"].items():
        of = [call for call in calls if call.runtime == runtime]
        for name in ("queue", "prefill", "decode", "network"):
            told = sum(shares(call).get(name, 0.0) * max(0.0, call.ended - call.started) for call in of)
            assert figures[f"{name}_s"] == pytest.approx(told, abs=1e-5 * len(of))
    spent, at = waits(events, together=joint), summary["chains"]
    idle = sum(at.get(name, 0.0) for name in ("barrier", "between steps", "client"))
    assert idle == pytest.approx(spent["barrier"] + spent["client"], abs=1e-3)
    assert ("client" in at) <= (not joint)


spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)).map(lambda one: (one[0], one[0] + one[1])))


@given(spans, st.integers(0, 40), st.integers(0, 15))
def test_a_span_in_pieces(covered, start, length):
    whole = union(covered)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(whole))
    found = list(pieces((start, start + length), whole))
    said = [inside for low, high, inside in found for _ in range(low, high)]
    assert said == [any(low <= at < high for low, high in covered) for at in range(start, start + length)]


@given(spans)
def test_lanes_are_as_many_as_there_is_at_once(intervals):
    made = [Slice("x", *one) for one in intervals]
    found = lanes(made)
    assert sorted(one for lane in found for one in lane) == sorted(made)
    most = max((sum(low <= at < high for low, high in intervals) for at in range(60)), default=0)
    instants = any(low == high for low, high in intervals)
    assert len(found) == most or (instants and most <= len(found) <= most + 1)


def test_a_chain_that_waits_for_others_is_at_the_barrier():
    def wrote(sample, start, end):
        call = Call(
            runtime="draft", role="draft", kind="decode", prompt_tokens=1, cached_tokens=0, completion_tokens=1,
            started=start, ended=end,
        )  # fmt: skip
        name = {"question": "q", "sample": sample, "turn": 0}
        return ChunkEvent(**name, author="draft", text="x", tokens=1, ended=False, calls=(call,))

    def over(sample, end):
        return ChainEvent(
            question="q", sample=sample, text="x", answer=None, ending="turns", turns=1, take_overs=0, started=0.0,
            ended=end,
        )  # fmt: skip

    events = [wrote(0, 0, 2), wrote(0, 7, 8), wrote(1, 0, 5), wrote(1, 7, 9), over(0, 9.0), over(1, 9.0)]
    first, second = (
        [(one.doing, one.start / 1e6, one.end / 1e6) for one in rows[0]]
        for rows in Timeline.of(events, joint=True).chains.values()
    )
    assert first == [
        ("draft writes", 0, 2), ("barrier", 2, 5), ("between steps", 5, 7), ("draft writes", 7, 8), ("barrier", 8, 9),
    ]  # fmt: skip
    assert second == [("draft writes", 0, 5), ("between steps", 5, 7), ("draft writes", 7, 9)]
    alone = Timeline.of(events).summary()["chains"]
    assert alone == {"draft writes": 10.0, "client": 8.0}


def valid(path):
    """The trace's events, after a look at what the format asks of them."""
    data = path.read_bytes()
    document = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    assert document["displayTimeUnit"] == "ms"
    events, threads, processes = document["traceEvents"], set(), set()
    tracks = defaultdict(list)
    for event in events:
        assert event["ph"] in "MXiC"
        assert isinstance(event["pid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "process_sort_index", "thread_name", "thread_sort_index")
            (threads if event["name"].startswith("thread") else processes).add((event["pid"], event["tid"]))
            continue
        assert isinstance(event["ts"], int)
        assert event["ts"] >= 0
        assert (event["pid"], 0) in processes
        if event["ph"] == "X":
            assert isinstance(event["dur"], int)
            tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "i":
            assert event["s"] == "t"
        else:
            assert all(isinstance(value, int | float) for value in event["args"].values())
    assert tracks.keys() <= threads
    for track in tracks.values():
        open_ = []
        for start, end in sorted(track, key=lambda one: (one[0], -one[1])):
            while open_ and open_[-1] <= start:
                open_.pop()
            assert not open_ or end <= open_[-1], "slices of a thread lie beside or within each other"
            open_.append(end)
    return events


def of(events, ph):
    return [event for event in events if event["ph"] == ph]


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_a_file_of_two_runs(tmp_path, suffix):
    folders = {
        "one": run(tmp_path / "one", [["1", "2"], ["1", "1"]]),
        "two": run(tmp_path / "two", [["1", "2"]], program="a1_sync"),
    }
    out = tmp_path / f"trace{suffix}"
    write(out, ((name, Timeline.read(folder)) for name, folder in folders.items()), Window())
    events = valid(out)
    names = [event["args"]["name"] for event in of(events, "M") if event["name"] == "process_name"]
    assert names == [
        f"{name}: {what}" for name in folders for what in ("chains", "draft-0 runtime", "target-0 runtime")
    ]
    requests = [event for event in of(events, "X") if event["pid"] in (2, 3, 5, 6) and "args" in event]
    assert len(requests) == sum(len(calls_of(folder.events)) for folder in folders.values())
    marks = [event["name"] for event in of(events, "i")]
    assert (marks.count("take-over"), marks.count("answered")) == (6, 6)
    counted = {" ".join([event["name"], *event["args"]]) for event in of(events, "C")}
    assert counted == {
        "chains in flight", "calls under way", "tokens a second", "prompt tokens share cached",
    }  # fmt: skip
    assert list(tmp_path.glob("*.tmp")) == []


def test_a_window_leaves_out_what_is_not_in_it(tmp_path):
    folder = run(tmp_path / "run", [["1", "2"]])
    out = tmp_path / "trace.json"
    write(out, [("run", Timeline.read(folder))], Window(0.75, 1.25))
    doing = {event["name"] for event in of(valid(out), "X") if event["pid"] == 1}
    assert doing == {"client", "target verifies"}
    for start, end in ((-1.0, None), (2.0, 2.0)):
        with pytest.raises(ConfigError, match="--from"):
            Window(start, end)


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"\.json\.gz"):
        write(tmp_path / "trace.html", [], Window())

    def broken():
        yield "run", Timeline.of([])
        raise ConfigError("no run")

    with pytest.raises(ConfigError, match="no run"):
        write(tmp_path / "trace.json", broken(), Window())
    assert list(tmp_path.iterdir()) == []


def test_a_lost_chains_requests_are_there(tmp_path):
    call = Call(
        runtime="draft", role="draft", kind="decode", prompt_tokens=1, cached_tokens=0, completion_tokens=1,
        started=1.0, ended=2.0,
    )  # fmt: skip
    found = Timeline.of([LostEvent(question="q", sample=0, error="broke", calls=(call,))])
    assert [one.doing for one in found.chains["q", 0][0]] == ["draft writes in vain"]
    assert [(mark.name, mark.at) for mark in found.marks["q", 0]] == [("lost", 2_000_000)]


@pytest.mark.parametrize(("program", "waiting"), [("a1", "client"), ("a1_sync", "barrier")])
def test_a_run(scripted, tmp_path, program, waiting):
    plan = Eval(
        task=find_task("chain"), split="test", program=program, runtime=None, questions=5, chains=3, seed=5,
        sampling={"temperature": 0.6}, alpha=0.3 if program == "a1" else None,
    )  # fmt: skip
    folder, _ = evaluate(plan, scripted(), tmp_path / "run")
    found = Timeline.read(RunFolder.read(tmp_path / "run"))
    summary = found.summary()
    assert sum(figures["requests"] for figures in summary["runtimes"].values()) == len(calls_of(folder.events))
    assert waiting in summary["chains"]
    assert ("barrier" in summary["chains"]) == (program == "a1_sync")
    write(tmp_path / "trace.json", [(program, found)], Window())
    marks = [event for event in of(valid(tmp_path / "trace.json"), "i") if event["name"] in ("take-over", "accepted")]
    assert len(marks) == sum(isinstance(event, VerdictEvent) for event in folder.events)
