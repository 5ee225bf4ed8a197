"""What is to be computed: the chains of a recorded run as they were, or others drawn from its chunks.

A record says what every chain asked of the runtimes: how many tokens were sent, how many of them a runtime had, and
how many it wrote. `recorded` gives just these requests. `planned` draws chains from the record's chunks, for another
alpha, another number of chains, or another program; what such a plan cannot know is in `UNKNOWN`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from a1_sgl.errors import ConfigError
from a1_sgl.records import Finished, RunFolder
from a1_sgl.types import (
    AuditEvent,
    CalibrationEvent,
    Call,
    ChunkEvent,
    DropEvent,
    Event,
    LostEvent,
    PromptEvent,
    RatingEvent,
    VerdictEvent,
    calls_of,
)

ARMS = {
    "a1": "A1: every chunk whose share is at most alpha is handed over; no chain waits for another",
    "a1_sync": "a question's chains wait after every turn, and its alpha * chains worst are handed over",
    "target": "the target alone writes what the recorded chains consist of",
    "draft": "the draft alone writes as many tokens as it did in the recorded chains",
}
UNKNOWN = (
    "Chains are drawn from the record: a planned chain has as many turns as a recorded one of the same question, and "
    "each turn's chunk is drawn from the recorded ones of that turn; one that was not handed over then gets a recorded "
    "take-over's length. How a chain would have gone on after another decision, and so how many turns another alpha "
    "makes, and its accuracy, no record says."
)


class Request(NamedTuple):
    """One request to a runtime.

    Attributes:
        role: of the runtime, ``draft`` or ``target``.
        prompt: tokens sent.
        seen: of these, those that the runtime was sent or wrote before; what it still holds of them it need not
            compute.
        write: tokens to be written; none where the prompt is only scored.
    """

    role: str
    prompt: int
    seen: int
    write: int = 0


@dataclass(frozen=True)
class Chain:
    """A chain's requests, one after the other, in phases. Where a question's chains go together, a phase begins when
    the one before it has ended in all of them."""

    phases: tuple[tuple[Request, ...], ...]

    @property
    def requests(self) -> list[Request]:
        """All of them, in order."""
        return [one for phase in self.phases for one in phase]


@dataclass(frozen=True)
class Question:
    """A question's prompt, which every runtime computes once, and its chains."""

    prompt: tuple[Request, ...]
    chains: tuple[Chain, ...]
    together: bool = False

    @property
    def prompts(self) -> dict[str, int]:
        """Tokens of the prompt by role."""
        return {one.role: one.prompt for one in self.prompt}


@dataclass(frozen=True)
class Turn:
    """A recorded turn.

    Attributes:
        drafted: tokens that the draft wrote.
        scored: as many in the target's tokens.
        score: higher is stranger.
        target: tokens that the target wrote; None where it was not handed over.
        share: of the record's chunks of this turn, those that are at least as strange, equal ones by half: its p-value
            among them.
    """

    drafted: int
    scored: int
    score: float
    target: int | None
    share: float = 0.0

    def stretched(self, by: float) -> Turn:
        """So many times as long."""
        target = None if self.target is None else _long(self.target, by)
        return replace(self, drafted=_long(self.drafted, by), scored=_long(self.scored, by), target=target)


@dataclass(frozen=True)
class Record:
    """A recorded run.

    Attributes:
        name: its folder.
        questions: what was asked of the runtimes.
        wall: seconds from the first request to the last.
        ended: when each chain ended, seconds from the first request, ascending.
        latency: seconds from a question's first chain's begin to its last one's end.
        seconds: what requests took, by role and whether they wrote, in the order in which they ended.
        in_flight: most chains that had a request under way at once.
        network: seconds a request spent outside the runtime, on average; 0 where it does not tell.
        turns: by question, the turns of each of its chains; empty for a program that does not draft and verify.
        replaces: whether a take-over replaces the chunk.
    """

    name: str
    questions: tuple[Question, ...]
    wall: float
    ended: tuple[float, ...]
    latency: tuple[float, ...]
    seconds: Mapping[tuple[str, bool], tuple[float, ...]]
    in_flight: int
    network: float
    turns: tuple[tuple[tuple[Turn, ...], ...], ...] = field(repr=False)
    replaces: bool = False

    @classmethod
    def read(cls, path: Path) -> Record:
        """From a run's folder.

        Raises:
            ConfigError: no run, one of several sessions, or one whose chains have several requests under way at once.
        """
        folder = RunFolder.read(path)
        if not folder.finished:
            raise ConfigError(f"{path} holds no finished chain, so there is nothing to simulate")
        if len(folder.run["sessions"]) > 1:
            raise ConfigError(f"{path} was interrupted and gone on with, so that its times say nothing; take another")
        other = {one.event for one in folder.events if isinstance(one, LostEvent | CalibrationEvent | AuditEvent)}
        if other:
            raise ConfigError(
                f"{path} has calls that are no finished chain's ({', '.join(sorted(other))}), which is not simulated; "
                "take a run without lost chains, pre-sampling and audits"
            )
        prompts: dict[str, list[Call]] = defaultdict(list)
        own: dict[tuple[str, int], list[Event]] = defaultdict(list)
        for event in folder.events:
            if isinstance(event, PromptEvent):
                prompts[event.question].append(event.call)
            elif isinstance(event, ChunkEvent | VerdictEvent | DropEvent | RatingEvent):
                own[event.question, event.sample].append(event)
        by_question: dict[str, list[Finished]] = defaultdict(list)
        for chain in sorted(folder.finished, key=lambda one: (one.started, one.sample)):
            by_question[chain.question].append(chain)
        calls = calls_of(folder.events)
        began = min(call.started for call in calls)
        together = folder.run["configuration"].get("program") == "a1_sync"
        questions, turns = [], []
        for name in sorted(by_question, key=lambda one: min(call.started for call in prompts[one])):
            chains = by_question[name]
            events = [own[chain.name] for chain in chains]
            questions.append(
                Question(
                    tuple(_request(call) for call in prompts[name]),
                    tuple(Chain(_phases(path, of)) for of in events),
                    together,
                )
            )
            turns.append(tuple(_turns(of) for of in events))
        seconds: dict[tuple[str, bool], list[float]] = defaultdict(list)
        for call in sorted(calls, key=lambda one: one.ended):
            seconds[_role(call), call.completion_tokens > 0].append(call.ended - call.started)
        outside = [call.ended - call.started - call.served_s for call in calls if call.served_s is not None]
        ended = tuple(sorted(chain.ended - began for chain in folder.finished))
        verdicts = [one for one in folder.events if isinstance(one, VerdictEvent)]
        return cls(
            name=path.name, questions=tuple(questions), wall=ended[-1], ended=ended,
            latency=tuple(
                max(one.ended for one in of) - min(one.started for one in of) for of in by_question.values()
            ),
            seconds={key: tuple(of) for key, of in seconds.items()},
            in_flight=_most(call for of in own.values() for call in calls_of(of)),
            network=max(0.0, sum(outside) / len(outside)) if outside else 0.0,
            turns=_shares(turns) if verdicts else (), replaces=any(one.replaced for one in verdicts),
        )  # fmt: skip


def _most(calls: Iterable[Call]) -> int:
    """How many were under way at once, at most."""
    edges = sorted((at, step) for call in calls for at, step in ((call.started, 1), (call.ended, -1)))
    return max(accumulate(step for _, step in edges), default=1)


def _long(tokens: int, by: float) -> int:
    return max(1, round(tokens * by))


def _role(call: Call) -> str:
    return "draft" if call.role == "draft" else "target"


def _request(call: Call) -> Request:
    return Request(_role(call), call.prompt_tokens, call.cached_tokens, call.completion_tokens)


def _phases(path: Path, events: Sequence[Event]) -> tuple[tuple[Request, ...], ...]:
    """A chain's requests; in a turn what comes after the verdict is a phase of its own."""
    phases: dict[tuple[int, bool], list[Request]] = defaultdict(list)
    last, at, judged = 0.0, 0, False
    for event in events:
        turn = getattr(event, "turn", at)
        if turn != at:
            at, judged = turn, False
        for call in calls_of([event]):
            if call.started < last - 1e-3:
                raise ConfigError(
                    f"{path}: a chain has several requests under way at once, which is not simulated; take a run of a "
                    "program whose chains do one thing at a time, such as a1"
                )
            last = call.ended
            phases[at, judged].append(_request(call))
        judged = judged or isinstance(event, VerdictEvent)
    most = max((turn for turn, _ in phases), default=-1)
    return tuple(tuple(phases.get((turn, half), ())) for turn in range(most + 1) for half in (False, True))


def _turns(events: Sequence[Event]) -> tuple[Turn, ...]:
    """The turns of a chain whose draft writes and whose target scores; a turn of several draws is its last one."""
    found: dict[int, Turn] = {}
    drafted: dict[int, int] = {}
    for event in events:
        if isinstance(event, VerdictEvent):
            if event.turn in drafted:
                found[event.turn] = Turn(drafted[event.turn], event.tokens, event.score, None)
        elif isinstance(event, ChunkEvent) and event.calls:
            written = sum(call.completion_tokens for call in event.calls)
            if event.author == "draft":
                drafted[event.turn] = written
            elif (turn := found.get(event.turn)) is not None:
                found[event.turn] = replace(turn, target=written)
    return tuple(found[turn] for turn in sorted(found))


def _shares(questions: Sequence[Sequence[Sequence[Turn]]]) -> tuple[tuple[tuple[Turn, ...], ...], ...]:
    """The turns with their shares."""
    scores: dict[int, list[float]] = defaultdict(list)
    for chains in questions:
        for chain in chains:
            for number, turn in enumerate(chain):
                scores[number].append(turn.score)

    def share(number: int, score: float) -> float:
        of = scores[number]
        return (sum(one > score for one in of) + 0.5 * sum(one == score for one in of)) / len(of)

    return tuple(
        tuple(
            tuple(replace(turn, share=share(number, turn.score)) for number, turn in enumerate(chain))
            for chain in chains
        )
        for chains in questions
    )


def planned(
    record: Record, arm: str, alpha: float, chains: int, count: int, *, seed: int = 0, replaces: bool | None = None,
    stretch: float = 1.0,
) -> list[Question]:  # fmt: skip
    """Questions drawn from a record, as `UNKNOWN` says.

    Args:
        arm: a name in `ARMS`.
        alpha: share of chunks that is handed over, in every turn.
        chains: of each question.
        count: of questions.
        replaces: whether a take-over replaces the chunk; None is the record's way.
        stretch: how many times as long prompts, chunks and take-overs are as recorded.

    Raises:
        ConfigError: an unknown arm, an alpha outside [0, 1], no chains, questions or length, or a record of a program
            that does not draft and verify.
    """
    if arm not in ARMS:
        raise ConfigError(f"unknown arm {arm!r}; known: {', '.join(ARMS)}")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha is a rate and lies in [0, 1], not {alpha:g}")
    if chains < 1 or count < 1:
        raise ConfigError(f"there must be a chain and a question at least, not {chains} and {count}")
    if not stretch > 0:
        raise ConfigError(f"lengths are stretched by a factor above 0, not {stretch:g}")
    if arm == "a1_sync" and abs(alpha * chains - (budget := round(alpha * chains))) > 1e-6 * chains:
        raise ConfigError(
            f"a1_sync hands over a whole number of a question's chains: alpha {alpha:g} of {chains} is none, "
            f"{budget / chains:g} is {budget}"
        )
    usable = [i for i, question in enumerate(record.turns) if any(question) and len(record.questions[i].prompt) > 1]
    if not usable:
        raise ConfigError(
            f"{record.name}: its draft wrote no chunk that the target scored; plan from a run of a1 or a1_sync"
        )
    drawn = random.Random(seed)
    pool: dict[int, list[Turn]] = defaultdict(list)
    written: list[int] = []
    for question in record.turns:
        for chain in question:
            for number, turn in enumerate(chain):
                pool[number].append(turn.stretched(stretch))
                if turn.target is not None:
                    written.append(_long(turn.target, stretch))
    if not written:
        raise ConfigError(f"{record.name}: its target never took over, so how long a take-over is is not known")
    return [
        _drawn(
            arm, alpha, chains, {role: _long(tokens, stretch) for role, tokens in record.questions[i].prompts.items()},
            [len(chain) for chain in record.turns[i] if chain], pool, written, drawn,
            record.replaces if replaces is None else replaces,
        )
        for i in drawn.choices(usable, k=count)
    ]  # fmt: skip


def _drawn(
    arm: str, alpha: float, count: int, prompts: Mapping[str, int], lengths: Sequence[int],
    pool: Mapping[int, Sequence[Turn]], written: Sequence[int], drawn: random.Random, replaces: bool,
) -> Question:  # fmt: skip
    """A question of which the record has chains of so many turns."""
    chains = [[drawn.choice(pool[turn]) for turn in range(drawn.choice(lengths))] for _ in range(count)]
    if arm == "a1_sync":
        handed = _ranked(chains, round(alpha * count))
    elif arm == "a1":
        handed = {(i, t) for i, chain in enumerate(chains) for t, turn in enumerate(chain) if turn.share <= alpha}
    else:
        handed = {(i, t) for i, chain in enumerate(chains) for t, turn in enumerate(chain) if turn.target is not None}
    made = []
    for i, chain in enumerate(chains):
        taken = {t: turn.target if turn.target is not None else drawn.choice(written)
                 for t, turn in enumerate(chain) if (i, t) in handed}  # fmt: skip
        if arm in ("draft", "target"):
            tokens = sum(
                turn.drafted if t not in taken or arm == "draft" else taken[t] + (0 if replaces else turn.drafted)
                for t, turn in enumerate(chain)
            )
            made.append(Chain(((Request(arm, prompts[arm], prompts[arm], tokens),),)))
        else:
            made.append(Chain(turned(prompts, chain, taken, replaces)))
    roles = ("draft", "target") if arm in ("a1", "a1_sync") else (arm,)
    prompt = tuple(Request(role, prompts[role], 0) for role in roles)
    return Question(prompt, tuple(made), together=arm == "a1_sync")


def _ranked(chains: Sequence[Sequence[Turn]], budget: int) -> set[tuple[int, int]]:
    """Of the chains that still go on in a turn the `budget` worst."""
    found: set[tuple[int, int]] = set()
    for t in range(max(map(len, chains))):
        going = [i for i, chain in enumerate(chains) if len(chain) > t]
        found |= {(i, t) for i in sorted(going, key=lambda i: -chains[i][t].score)[:budget]}
    return found


def turned(
    prompts: Mapping[str, int], chain: Sequence[Turn], taken: Mapping[int, int], replaces: bool
) -> tuple[tuple[Request, ...], ...]:
    """The requests of a chain. What was written last has no place in its writer's cache before it is sent again.

    Args:
        taken: tokens that the target writes, by the number of the turn that is handed over.
        prompts: tokens of the prompt, by role.
        replaces: whether a take-over replaces the chunk.
    """
    length = dict(prompts)
    seen = dict(prompts)
    phases: list[tuple[Request, ...]] = []

    def ask(role: str, prompt: int, write: int) -> Request:
        made = Request(role, prompt, min(seen[role], prompt), write)
        seen[role] = prompt + max(write - 1, 0)
        return made

    for number, turn in enumerate(chain):
        before = dict(length)
        drafted = ask("draft", length["draft"], turn.drafted)
        length = {"draft": length["draft"] + turn.drafted, "target": length["target"] + turn.scored}
        phases.append((drafted, ask("target", length["target"], 0)))
        if number not in taken:
            phases.append(())
            continue
        if replaces:
            length = before
            seen = {role: min(seen[role], length[role]) for role in seen}
        phases.append((ask("target", length["target"], taken[number]),))
        length = {role: tokens + taken[number] for role, tokens in length.items()}
    return tuple(phases)
