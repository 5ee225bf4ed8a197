"""The domain: questions, chunks, losses, calls, events and results.

Everything a program emits is one of these; `records` writes them, `evals` reads them.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from a1_sgl.arguments import check_kind
from a1_sgl.conformal.place import Place
from a1_sgl.conformal.stages import Screening
from a1_sgl.errors import ConfigError
from a1_sgl.voting import decide, support

CallKind = Literal["prefill", "decode", "verify"]
Ending = Literal["answered", "ended", "turns", "context", "stopped", "length", "stop"]
"""``stopped``: its question was decided before it had finished; such a chain has no answer and does not count. Where
``ignore_eos`` is set, a chain is neither ``answered`` nor ``ended``. ``length`` and ``stop``: it has as many tokens, or
came to a stop sequence, as it was asked to end with (`Query.chain_tokens`, `Query.chain_stop`)."""
DropReason = Literal["replaced", "redrawn", "pruned", "rolled back", "stopped", "lost"]
PROGRAM = "program"
"""Author of text that a program itself puts into a chain."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(_Record):
    """A question as chat messages, with its reference answer where one is known.

    `images` go to a runtime that takes them, as it takes them: URLs, paths that it can read, or base64. The messages
    say where they stand, in whatever way the model's chat template asks. `tools` are functions that it may call, as
    chat templates take them. `prompt` is a text that is continued as it stands, in place of the messages, which then
    only say what it was.
    """

    id: str
    messages: tuple[Mapping[str, Any], ...]
    images: tuple[str, ...] = ()
    answer: str | None = None
    task: str = ""
    meta: Mapping[str, Any] = Field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None

    @classmethod
    def of(cls, question: str | Question, answer: str | None = None) -> Question:
        """A question of one user message, with its reference answer where it is known; its id is a hash of the text.

        Raises:
            ConfigError: the text is empty.
        """
        if isinstance(question, Question):
            return question
        check_kind(question, str, "a question", "'What is 1 + 1?', or a Question")
        if not question.strip():
            raise ConfigError("the question is empty; there is nothing to solve")
        identity = hashlib.sha256(question.encode()).hexdigest()[:12]
        return cls(id=identity, messages=({"role": "user", "content": question},), answer=answer)


@dataclass(frozen=True)
class Loss:
    """Negative log-likelihoods of a chunk's tokens under the target, in nats; there is at least one."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a loss needs at least one token")

    @property
    def mean(self) -> float:
        """Mean per token; its exponential is the perplexity."""
        return statistics.fmean(self.values)

    @property
    def tokens(self) -> int:
        """How many tokens were scored."""
        return len(self.values)


@dataclass(frozen=True)
class Grade:
    """Whether an answer is right.

    Attributes:
        key: the answer as votes compare it: equal answers, however they are written, have the same.
        note: why it could not be compared, where it could not.
    """

    correct: bool
    key: str | None = None
    note: str | None = None


class Call(_Record):
    """One request to a runtime, as the runtime accounted for it. Times are seconds since the epoch.

    `runtime` is the runtime's own name, `role` what it was for: ``draft`` wrote, ``target`` took over or verified, and
    ``verifier`` verified where a third runtime does. Of the time between `started` and `ended` the runtime itself had
    it for `served_s` seconds; of these it lay in the queue for `queue_s`, and its prompt took `prefill_s`. None where
    the runtime does not tell.
    """

    runtime: str
    role: str
    kind: CallKind
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    started: float
    ended: float
    served_s: float | None = None
    queue_s: float | None = None
    prefill_s: float | None = None


@dataclass(frozen=True)
class Chunk:
    """A piece of a chain by one author.

    Attributes:
        author: role of the runtime that wrote it, ``draft`` or ``target``, or `PROGRAM`.
        text: what it says, a stop string included.
        ids: its token ids under the author's tokenizer, an end token excluded.
        ended: whether the author ended its turn after it (an end token was sampled).
        start: how many pieces of the chain's transcript come before it.
        budget: most tokens that its author might have written.
        logprobs: log-probabilities of its tokens as its author's runtime told them, an end token's the last, where they
            were asked for (`Query.logprobs`) and are known of all of them.
        first: in the same way, those of the likeliest tokens at its first place.
        tokens: how many its author's runtime counted.
    """

    author: str
    text: str
    ids: tuple[int, ...]
    ended: bool
    start: int
    budget: int = 0
    logprobs: tuple[float, ...] | None = None
    first: tuple[float, ...] | None = None
    tokens: int = 0


@dataclass(frozen=True)
class Settled:
    """What of a chain nobody takes back any more, in programs that settle their turns (`Program.settles`).

    Attributes:
        sample: its number.
        chunks: those that are whole.
        text: all of it; it may end within what the last author is still writing.
        over: why the chain is complete, once it is.
    """

    sample: int
    chunks: tuple[Chunk, ...]
    text: str
    over: Ending | None = None


class PromptEvent(_Record):
    """A question's prompt was computed on a runtime, once for all its chains."""

    event: Literal["prompt"] = "prompt"
    question: str
    call: Call


class ChunkEvent(_Record):
    """A runtime wrote a chunk."""

    event: Literal["chunk"] = "chunk"
    question: str
    sample: int
    turn: int
    author: str
    text: str
    tokens: int
    ended: bool
    calls: tuple[Call, ...]


class CalibrationEvent(_Record):
    """A chunk was drafted and scored for the gate's bank alone, before the question's chains began."""

    event: Literal["calibration"] = "calibration"
    question: str
    task: str = ""
    score: float
    tokens: int
    calls: tuple[Call, ...]


class VerdictEvent(_Record):
    """A chunk was judged, and it was decided whether it is handed over (or, with one model, rejected).

    `attempt` counts the draws of a turn from 0, where chunks are drawn again. `tokens` were judged by `call`;
    `draft_call` is the draft's own scoring, where the score asks for it. A rule that is no gate has no p-value and no
    level, and one that reads the text alone makes no call. With `audit` an `AuditEvent` follows, perhaps after the
    chain's end. `screening` is what the first of two stages made of the chunk; where it was accepted by that, no call
    was made and the score is `UNSEEN`, below every other. `losses` are the target's tokens, as text, each with its
    negative log-likelihood in nats, where they were asked for (`Query.losses`) and the score is made of them; an end
    token has no text. `rating` is the judge's, 0 to 9 and higher is better, where the score is made of that; people are
    shown it in the score's place.
    """

    event: Literal["verdict"] = "verdict"
    question: str
    sample: int
    turn: int
    attempt: int = 0
    score: float
    tokens: int
    p_value: float | None = None
    alpha: float | None = None
    n: int = 0
    take_over: bool
    replaced: bool
    audit: bool = False
    call: Call | None = None
    draft_call: Call | None = None
    task: str = ""
    screening: Screening | None = None
    losses: tuple[tuple[str, float], ...] | None = None
    rating: float | None = None

    @property
    def unseen(self) -> bool:
        """Whether it was accepted by the draft's evidence, so that the target has not scored it."""
        return self.screening is not None and self.screening.accepted

    @property
    def place(self) -> Place:
        """The chunk's name, as gates know it."""
        return Place(self.question, self.sample, self.turn, self.task, self.attempt)


class AuditEvent(_Record):
    """An accepted chunk was audited: somebody found out whether it is wrong, beside its chain.

    Attributes:
        by: how, a name in `a1_sgl.session.AUDITS`.
        wrong: what was found. An audit that failed or was stopped found nothing, and counts as wrong.
        error: why it found nothing; None where it did.
        calls: what it took; all they decoded is in no chain.
    """

    event: Literal["audit"] = "audit"
    question: str
    sample: int
    turn: int
    attempt: int = 0
    by: str
    wrong: bool
    error: str | None = None
    calls: tuple[Call, ...] = ()
    task: str = ""

    @property
    def place(self) -> Place:
        """The chunk's name, as gates know it."""
        return Place(self.question, self.sample, self.turn, self.task, self.attempt)


class DropEvent(_Record):
    """Text was taken back out of a chain, or never got into it; `tokens` were decoded in vain.

    `calls` are those that no `ChunkEvent` has told of: of a generation that was aborted.
    """

    event: Literal["drop"] = "drop"
    question: str
    sample: int
    turn: int
    author: str
    tokens: int
    reason: DropReason
    calls: tuple[Call, ...] = ()


class RatingEvent(_Record):
    """A finished chain was rated: by its own likelihood, the target's, or a judge prompt. Higher is better."""

    event: Literal["rating"] = "rating"
    question: str
    sample: int
    by: str
    rating: float
    call: Call


class ChainEvent(_Record):
    """A chain is finished.

    `key` is what its answer counts as in a vote, the same for all equal ones; it is worked out beside the run, so that
    only a `Result` has it. `rating` is what its program ranks it by, higher better, where it does.
    """

    event: Literal["chain"] = "chain"
    question: str
    sample: int
    text: str
    answer: str | None
    ending: Ending
    turns: int
    take_overs: int
    key: str | None = None
    rating: float | None = None
    started: float
    ended: float


class LostEvent(_Record):
    """A chain broke off with an error; it can be run again.

    `calls` are those that no other event has told of: the record of a run keeps them in the place of a lost chain's
    events, so that what they cost is counted. All they decoded is in no chain.
    """

    event: Literal["lost"] = "lost"
    question: str
    sample: int
    error: str
    calls: tuple[Call, ...] = ()


class AnswerEvent(_Record):
    """All chains of a question are over and their vote is in; `support` is each answer's share of it."""

    event: Literal["answer"] = "answer"
    question: str
    answer: str | None
    vote: str
    support: Mapping[str, float]


Event = Annotated[
    PromptEvent
    | CalibrationEvent
    | ChunkEvent
    | VerdictEvent
    | AuditEvent
    | DropEvent
    | RatingEvent
    | ChainEvent
    | LostEvent
    | AnswerEvent,
    Field(discriminator="event"),
]
Listener = Callable[[Event], None]
Watch = Callable[[Settled], None]
"""Told, on the event loop, whenever more of a chain is settled; so it must not block."""


def calls_of(events: Iterable[Event]) -> list[Call]:
    """Every request behind `events`."""
    calls: list[Call] = []
    for event in events:
        if isinstance(event, PromptEvent | RatingEvent):
            calls.append(event.call)
        elif isinstance(event, VerdictEvent):
            calls.extend(call for call in (event.call, event.draft_call) if call is not None)
        elif isinstance(event, ChunkEvent | CalibrationEvent | AuditEvent | DropEvent | LostEvent):
            calls.extend(event.calls)
    return calls


def unanswered(events: Iterable[Event]) -> list[VerdictEvent]:
    """Verdicts whose audit has no answer among `events`, since the process was killed, say; they count as wrong."""
    open_: dict[Place, VerdictEvent] = {}
    for event in events:
        if isinstance(event, VerdictEvent) and event.audit:
            open_[event.place] = event
        elif isinstance(event, AuditEvent):
            open_.pop(event.place, None)
    return list(open_.values())


@dataclass(frozen=True)
class Usage:
    """Tokens by role and kind, summed over events.

    Attributes:
        decode: tokens generated, by role.
        prefill: prompt tokens computed, which is those not found in the prefix cache, by role.
        prompt: prompt tokens sent to any runtime.
        cached: of these, the ones its prefix cache held.
        dropped: of the tokens generated, those that are in no chain, by role.
    """

    decode: Mapping[str, int]
    prefill: Mapping[str, int]
    prompt: int
    cached: int
    dropped: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """The sum over `events`."""
        events = list(events)
        calls = calls_of(events)
        decode: dict[str, int] = {}
        prefill: dict[str, int] = {}
        dropped: dict[str, int] = {}
        for call in calls:
            decode[call.role] = decode.get(call.role, 0) + call.completion_tokens
            prefill[call.role] = prefill.get(call.role, 0) + call.prompt_tokens - call.cached_tokens
        for event in events:
            if isinstance(event, DropEvent) and event.author != PROGRAM:
                dropped[event.author] = dropped.get(event.author, 0) + event.tokens
            elif isinstance(event, AuditEvent | LostEvent):
                for call in event.calls:
                    dropped[call.role] = dropped.get(call.role, 0) + call.completion_tokens
        prompt, cached = (sum(getattr(call, name) for call in calls) for name in ("prompt_tokens", "cached_tokens"))
        return cls(decode, prefill, prompt, cached, dropped)

    @property
    def cached_share(self) -> float | None:
        """Share of prompt tokens that came from a prefix cache; None if nothing was sent."""
        return self.cached / self.prompt if self.prompt else None


@dataclass(frozen=True)
class Result:
    """What every program returns.

    Attributes:
        question: the question asked.
        chains: finished chains in order of `sample`.
        lost: chains that broke off, with the reason.
        usage: what all of it cost.
        vote: how the answer is made of the chains' answers, a name in `a1_sgl.voting.VOTES`.
    """

    question: Question
    chains: tuple[ChainEvent, ...]
    lost: tuple[LostEvent, ...]
    usage: Usage
    vote: str = "majority"

    @property
    def answer(self) -> str | None:
        """The answer with the largest support, the earliest chain's among equals; None if no chain gives one."""
        return decide(self.vote, self.chains)

    @property
    def support(self) -> dict[str, float]:
        """Each answer's share of the vote."""
        return support(self.vote, self.chains)
