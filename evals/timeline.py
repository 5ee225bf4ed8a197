"""A run as a trace: what each runtime and each chain did at each moment, for Perfetto and chrome://tracing.

The file is in the Trace Event Format (JSON). A runtime is a process and its lanes are threads; every request is a slice
on one of them, with what its time went to inside it. A run's chains are a process too, and what a chain was at is on a
thread of its own. Slices of a thread lie beside or within each other, as the format asks, which is why times are whole
microseconds, as they are in the file: a reader that rounded would find slices that overlap, and drop them.
"""

from __future__ import annotations

import gzip
import heapq
import os
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson

from a1_sgl.errors import ConfigError
from a1_sgl.evals.speed.waits import busy, shares
from a1_sgl.programs.outline import library, outlines
from a1_sgl.records import RunFolder
from a1_sgl.types import (
    AuditEvent,
    CalibrationEvent,
    Call,
    ChainEvent,
    DropEvent,
    Event,
    LostEvent,
    PromptEvent,
    RatingEvent,
    VerdictEvent,
    calls_of,
)

PROMPT, ADMISSION, BARRIER, BETWEEN, CLIENT = "prompt", "admission", "barrier", "between steps", "client"
"""What a chain waits for besides its own requests: its question's prompt; a place to begin; others of its question;
where it went from step to step with these, the next step, for which it needs a place too; and the client, its gate
included."""
PHASES = ("network", "queue", "prefill", "decode", "network")
"""What a request's time goes to, in this order: where on its way it was is not told, so half of that is put before."""
SUFFIXES = (".json", ".json.gz")
_THREADS = 1000
"""Numbers of threads are above it: one that had its process's number would be shown as that one's main thread."""
_VERBS = {"prefill": "reads", "decode": "writes", "verify": "verifies"}
_COLOURS = {
    "draft writes": "thread_state_running", "target verifies": "thread_state_runnable", "target writes": "bad",
    BARRIER: "terrible", ADMISSION: "grey", BETWEEN: "grey", CLIENT: "black", PROMPT: "olive", "queue": "terrible",
    "prefill": "thread_state_runnable", "decode": "thread_state_running", "network": "grey",
}  # fmt: skip
"""Of what is looked for most, by chrome://tracing's own names; Perfetto has its own colours."""
Name = tuple[str, int]
"""Question and sample."""
Interval = tuple[int, int]
T = TypeVar("T", bound="Sent | Slice")


class Sent(NamedTuple):
    """A request and what it was for; times are microseconds from the run's begin.

    Attributes:
        doing: whose it was and what it did, such as ``target verifies``.
        args: question, chain and turn, tokens, and why it was in vain, where it was.
    """

    doing: str
    start: int
    end: int
    call: Call
    args: Mapping[str, Any]


class Slice(NamedTuple):
    """What a chain was at."""

    doing: str
    start: int
    end: int
    args: Mapping[str, Any] = {}


class Mark(NamedTuple):
    """Something that happened to a chain: its chunk was accepted or taken over, it ended, it was lost."""

    name: str
    at: int
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Timeline:
    """What happened in a run.

    Attributes:
        runtimes: each one's requests, on as few lanes as there were requests at once.
        chains: what each chain was at, on more than one lane where several of its requests were under way at once; in
            order of begin.
        marks: what happened to each.
        alive: from each chain's begin to its end.
    """

    runtimes: Mapping[str, list[list[Sent]]]
    chains: Mapping[Name, list[list[Slice]]]
    marks: Mapping[Name, list[Mark]]
    alive: Sequence[Interval]

    @classmethod
    def of(cls, events: Sequence[Event], began: float = 0.0, *, joint: bool = False) -> Timeline:
        """From a run's events.

        Args:
            began: when it began, in seconds since the epoch.
            joint: whether the chains of a question go from step to step together. What is between two of a chain's
                requests is then `BARRIER` from the first to the last moment at which any other of its question is under
                way, and else `BETWEEN`; otherwise it is `CLIENT`.
        """
        clock = _Clock(began)
        sent: defaultdict[str, list[Sent]] = defaultdict(list)
        own: defaultdict[Name, list[Sent]] = defaultdict(list)
        before: defaultdict[str, list[Sent]] = defaultdict(list)
        marks: defaultdict[Name, list[Mark]] = defaultdict(list)
        ended: dict[Name, ChainEvent] = {}
        for event in events:
            made = [_sent(event, call, clock) for call in calls_of([event])]
            for one in made:
                sent[one.call.runtime].append(one)
            if isinstance(event, PromptEvent | CalibrationEvent):
                before[event.question].extend(made)
                continue
            if isinstance(event, AuditEvent) or not hasattr(event, "sample"):  # an audit is beside its chain
                continue
            name = (event.question, event.sample)
            own[name].extend(made)
            at = own[name][-1].end if own[name] else None
            if isinstance(event, ChainEvent):
                ended[name] = event
                at = clock(event.ended)
            if at is not None and (said := _said(event)) is not None:
                marks[name].append(Mark(said[0], at, said[1]))
        merged: defaultdict[str, list[Interval]] = defaultdict(list)
        last: defaultdict[str, int] = defaultdict(int)
        for (question, _), requests in own.items():
            merged[question].extend((one.start, one.end) for one in requests)
        for (question, _), event in ended.items():
            last[question] = max(last[question], clock(event.ended))
        together = {question: union(spans) for question, spans in merged.items()}
        chains: dict[Name, list[list[Slice]]] = {}
        for name in own.keys() | ended.keys():
            slices = [Slice(one.doing, one.start, one.end, one.args) for one in own[name]]
            if (chain := ended.get(name)) is not None:
                span = clock(chain.started), max(clock(chain.started), clock(chain.ended))
                others = together.get(name[0], []) if joint else None
                slices += _waits(union((one.start, one.end) for one in own[name]), span, before[name[0]], others)
                if joint and last[name[0]] > span[1]:
                    slices.append(Slice(BARRIER, span[1], last[name[0]]))
            chains[name] = lanes(slices)
        order = sorted(chains, key=lambda name: (min((lane[0].start for lane in chains[name]), default=0), name))
        first = {question: i for i, (question, _) in reversed(list(enumerate(order)))}
        order.sort(key=lambda name: (first[name[0]], name[1]))
        return cls(
            {runtime: lanes(sent[runtime]) for runtime in sorted(sent)}, {name: chains[name] for name in order}, marks,
            [(clock(one.started), clock(one.ended)) for one in ended.values()],
        )  # fmt: skip

    @classmethod
    def read(cls, folder: RunFolder) -> Timeline:
        """Of a run on record, from the begin of its first session."""
        configuration = folder.run["configuration"]
        starts = [call.started for call in calls_of(folder.events)]
        return cls.of(
            folder.events, min([*folder.run["sessions"], *starts], default=0.0), joint=_joint(configuration["program"])
        )

    def summary(self) -> dict[str, Any]:
        """Where the time went, in seconds: of each runtime's requests by phase, and of the chains by what they were at.

        A runtime's `share` is that of the time between the run's first and last request in which any of its own was
        under way, and `calls` how many there were then.
        """
        calls = {runtime: [one for lane in of for one in lane] for runtime, of in self.runtimes.items()}
        edges = [edge for of in calls.values() for one in of for edge in (one.start, one.end)]
        wall = (max(edges) - min(edges)) / 1e6 if edges else 0.0
        at: Counter[str] = Counter()
        for rows in self.chains.values():
            for one in (one for lane in rows for one in lane):
                at[one.doing] += one.end - one.start
        return {
            "wall_s": wall,
            "runtimes": {
                runtime: {
                    "requests": len(of), **busy((one.call for one in of), wall),
                    **{f"{name}_s": us / 1e6 for name, us in _by_phase(of).items()},
                }
                for runtime, of in calls.items()
            },
            "chains": {doing: us / 1e6 for doing, us in at.most_common()},
        }  # fmt: skip


def lanes(intervals: Iterable[T]) -> list[list[T]]:
    """The intervals in order of begin, each on the first lane that is free by then; as few lanes as are needed."""
    found: list[list[T]] = []
    free: list[int] = []
    taken: list[tuple[int, int]] = []
    for one in sorted(intervals, key=lambda one: (one.start, one.end)):
        while taken and taken[0][0] <= one.start:
            heapq.heappush(free, heapq.heappop(taken)[1])
        if not free:
            heapq.heappush(free, len(found))
            found.append([])
        lane = heapq.heappop(free)
        found[lane].append(one)
        heapq.heappush(taken, (one.end, lane))
    return found


def phases(one: Sent) -> list[tuple[str, int, int]]:
    """What a request's time went to, as `shares` has it: name, begin and end of each of `PHASES` that took any."""
    share, whole, at, done = shares(one.call), one.end - one.start, one.start, 0.0
    found = []
    for i, name in enumerate(PHASES):
        done += share.get(name, 0.0) / PHASES.count(name)
        until = one.end if i == len(PHASES) - 1 else min(one.end, one.start + round(done * whole))
        if until > at:
            found.append((name, at, until))
        at = max(at, until)
    return found


def union(spans: Iterable[Interval]) -> list[Interval]:
    """What any of them covers, in order, as pieces that do not touch."""
    found: list[Interval] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def pieces(span: Interval, covered: Sequence[Interval]) -> Iterator[tuple[int, int, bool]]:
    """`span` in pieces, each with whether it is in `covered`, which is a `union`."""
    at, end = span
    for i in range(max(0, bisect_left(covered, (at, at)) - 1), len(covered)):
        low, high = max(covered[i][0], at), min(covered[i][1], end)
        if covered[i][0] >= end:
            break
        if high > low:
            if low > at:
                yield at, low, False
            yield low, high, True
            at = high
    if at < end:
        yield at, end, False


# --- from events --------------------------------------------------------------------------------------------------


class _Clock:
    """Microseconds from the run's begin."""

    def __init__(self, began: float) -> None:
        self._began = began

    def __call__(self, at: float) -> int:
        return round((at - self._began) * 1e6)


def _sent(event: Event, call: Call, clock: _Clock) -> Sent:
    verb = "rates" if isinstance(event, RatingEvent) else "audits" if isinstance(event, AuditEvent) else ""
    vain = isinstance(event, DropEvent | LostEvent)
    doing = f"{call.role} {verb or _VERBS[call.kind]}{' in vain' if vain else ''}"
    args: dict[str, Any] = {"question": event.question}
    for name in ("sample", "turn", "attempt", "reason", "error"):
        if (value := getattr(event, name, None)) is not None:
            args["chain" if name == "sample" else name] = value
    args |= {"prompt": call.prompt_tokens, "cached": call.cached_tokens, "written": call.completion_tokens}
    start = clock(call.started)
    return Sent(doing, start, max(start, clock(call.ended)), call, args)


def _said(event: Event) -> tuple[str, dict[str, Any]] | None:
    """What an event is marked as."""
    if isinstance(event, VerdictEvent):
        said = {"turn": event.turn, "score": event.score, "p-value": event.p_value, "level": event.alpha, "n": event.n}
        return "take-over" if event.take_over else "accepted", said
    if isinstance(event, ChainEvent):
        return event.ending, {"answer": event.answer, "turns": event.turns, "take-overs": event.take_overs}
    if isinstance(event, LostEvent):
        return "lost", {"error": event.error}
    return None


def _waits(
    own: Sequence[Interval], span: Interval, before: Sequence[Sent], others: Sequence[Interval] | None
) -> list[Slice]:
    """What a chain was at while none of its requests was under way.

    Args:
        own: when they were; a `union`, like `others`.
        span: from its begin to its end.
        before: the requests for its question's prompt, and for what filled its gate's bank before it.
        others: when any of its question's requests was, where its chains go together.
    """
    found: list[Slice] = []
    ready = [one for one in before if one.end <= span[0]]
    if asked := [
        one.start for one in ready if one.call.kind == "prefill"
    ]:  # the last: a run may have been gone on with
        until = max(one.end for one in ready)
        for name, early in ((PROMPT, (max(asked), until)), (ADMISSION, (until, span[0]))):
            found += [Slice(name, start, end) for start, end, taken in pieces(early, own) if not taken]
    for low, high, taken in pieces(span, own):
        if taken:
            continue
        if others is None:
            found.append(Slice(CLIENT, low, high))
        else:
            under_way = [(start, end) for start, end, at in pieces((low, high), others) if at]
            first, last = (under_way[0][0], under_way[-1][1]) if under_way else (high, high)
            for name, start, end in ((BETWEEN, low, first), (BARRIER, first, last), (BETWEEN, last, high)):
                if end > start:
                    found.append(Slice(name, start, end))
    return found


def _by_phase(sent: Iterable[Sent]) -> dict[str, int]:
    found = dict.fromkeys(("queue", "prefill", "decode", "network"), 0)
    for one in sent:
        for name, start, end in phases(one):
            found[name] += end - start
    return found


def _joint(program: str) -> bool:
    """Whether a program's chains go together, by the text of its file, if it is still there."""
    path, colon, name = program.rpartition(":")
    try:
        known = outlines(Path(path)) if colon else library()
    except ConfigError:
        return False
    return any(one.joint for one in known if one.name == name)


# --- to a file ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """What of the runs is written, in seconds from each one's begin; `end` None is to their ends."""

    start: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and not self.end > self.start):
            raise ConfigError(f"--from {self.start:g} and --to {self.end} are no window; it takes 0 <= --from < --to")

    def has(self, start: int, end: int) -> bool:
        """Whether something that lasted so long belongs in it, whole."""
        return end >= self.start * 1e6 and (self.end is None or start <= self.end * 1e6)


def write(out: Path, runs: Iterable[tuple[str, Timeline]], window: Window) -> None:
    """Writes one trace of `runs`, side by side, each from its begin; nothing is left of one that failed.

    Raises:
        ConfigError: the file's name says that it is something else.
        OSError: it cannot be written.
    """
    if not out.name.endswith(SUFFIXES):
        raise ConfigError(f"--out is a trace, a file that ends in {' or '.join(SUFFIXES)}, not {out}")
    half = out.with_name(f"{out.name}.tmp")
    try:
        with gzip.open(half, "wb", 6) if out.suffix == ".gz" else half.open("wb") as file:
            file.write(b'{"displayTimeUnit":"ms","traceEvents":[')
            comma = b"\n"
            pids = iter(range(1, 1_000_000))
            for name, timeline in runs:
                for event in trace(name, timeline, pids, window):
                    file.write(comma + orjson.dumps(event, default=str))
                    comma = b",\n"
            file.write(b"\n]}\n")
        os.replace(half, out)
    finally:
        half.unlink(missing_ok=True)


def trace(run: str, timeline: Timeline, pids: Iterator[int], window: Window) -> Iterator[dict[str, Any]]:
    """The trace's events of one run: a process for its chains and one for each runtime, numbered by `pids`."""
    pid, tid = next(pids), _THREADS
    yield from _named("process", f"{run}: chains", pid)
    yield from _counted(pid, window, {("chains", "in flight"): _steps(timeline.alive)})
    for (question, sample), rows in timeline.chains.items():
        marks = timeline.marks.get((question, sample), [])
        for i, row in enumerate(rows or [[]]):
            tid += 1
            yield from _named("thread", f"{question} chain {sample}{f' ({i + 1})' if i else ''}", pid, tid)
            for one in row:
                if window.has(one.start, one.end):
                    yield _slice(one.doing, one.start, one.end, pid, tid, one.args)
            if not i:
                yield from (_mark(one, pid, tid) for one in marks if window.has(one.at, one.at))
    for runtime, of in timeline.runtimes.items():
        pid = next(pids)
        yield from _named("process", f"{run}: {runtime} runtime", pid)
        yield from _counted(pid, window, _load([one for lane in of for one in lane]))
        for tid, lane in enumerate(of, _THREADS + 1):
            yield from _named("thread", f"lane {tid - _THREADS}", pid, tid)
            for sent in lane:
                if window.has(sent.start, sent.end):
                    yield _slice(sent.doing, sent.start, sent.end, pid, tid, sent.args)
                    yield from (_slice(*part, pid, tid) for part in phases(sent))


def _load(sent: Sequence[Sent]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """How many requests a runtime had under way, at what pace they were decoded together, and how much of their prompts
    came from its prefix cache."""
    written = [
        (start, end, 1e6 * one.call.completion_tokens / (end - start))
        for one in sent
        for name, start, end in phases(one)
        if name == "decode"
    ]
    decoding, rates = [(start, end) for start, end, _ in written], [rate for _, _, rate in written]
    spans = [(one.start, one.end) for one in sent]
    prompts = _steps(spans, [one.call.prompt_tokens for one in sent])
    cached = _steps(spans, [one.call.cached_tokens for one in sent])
    return {
        ("calls", "under way"): _steps(spans),
        ("tokens", "a second"): [(at, round(rate, 1)) for at, rate in _steps(decoding, rates)],
        ("prompt tokens", "share cached"): [
            (at, round(of / whole, 3) if whole else 0.0)
            for (at, whole), (_, of) in zip(prompts, cached, strict=True)
        ],
    }  # fmt: skip


def _steps(spans: Sequence[Interval], weights: Sequence[float] | None = None) -> list[tuple[int, float]]:
    """What is under way at each moment at which that may change; each counts as its weight, 1 without any."""
    edges: defaultdict[int, float] = defaultdict(float)
    open_: defaultdict[int, int] = defaultdict(int)
    for i, (start, end) in enumerate(spans):
        weight = 1 if weights is None else weights[i]
        edges[start] += weight
        edges[end] -= weight
        open_[start] += 1
        open_[end] -= 1
    found, value, under_way = [], 0.0, 0
    for at in sorted(edges):
        value, under_way = value + edges[at], under_way + open_[at]
        value = value if under_way else 0.0  # sums of fractions leave a rest
        found.append((at, value))
    return found


def _counted(
    pid: int, window: Window, counters: Mapping[tuple[str, str], Sequence[tuple[int, float]]]
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """By what is counted and how, which a viewer shows as one name."""
    for (name, how), values in counters.items():
        before = None
        for at, value in values:
            if value != before and window.has(at, at):
                yield {"ph": "C", "name": name, "pid": pid, "ts": at, "args": {how: value}}
                before = value


def _named(kind: str, name: str, pid: int, tid: int = 0) -> list[dict[str, Any]]:
    """Its name, and its place among its like."""
    place = tid if kind == "thread" else pid
    return [
        {"ph": "M", "name": f"{kind}_name", "pid": pid, "tid": tid, "args": {"name": name}},
        {"ph": "M", "name": f"{kind}_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": place}},
    ]


def _slice(
    name: str, start: int, end: int, pid: int, tid: int, args: Mapping[str, Any] | None = None
) -> dict[str, Any]:  # fmt: skip
    found: dict[str, Any] = {
        "ph": "X", "name": name, "pid": pid, "tid": tid, "ts": start, "dur": end - start,
    }  # fmt: skip
    if args:
        found["args"] = args
    if name in _COLOURS:
        found["cname"] = _COLOURS[name]
    return found


def _mark(one: Mark, pid: int, tid: int) -> dict[str, Any]:
    return {"ph": "i", "name": one.name, "s": "t", "pid": pid, "tid": tid, "ts": one.at, "args": one.args}
