"""What every program is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from a1_sgl.answers import GRADERS
from a1_sgl.arguments import check_listener
from a1_sgl.errors import ConfigError
from a1_sgl.session.audits import find_audit
from a1_sgl.types import Listener, Question, Watch
from a1_sgl.voting import find_vote


@dataclass(frozen=True)
class Query:
    """A question, and what all programs have in common.

    Attributes:
        question: the question.
        samples: the numbers of its chains; where they do not depend on each other, a resumed run asks for those that
            are missing.
        listener: told of every event, on the event loop, so that it must not block.
        vote: how the answer is made of the chains' answers, a name in `a1_sgl.voting.VOTES`.
        rate: how finished chains are rated for that, a name in `a1_sgl.session.RATES`; None rates them by the target
            where the vote needs it and the program has no rating of its own.
        audit: how chunks that a gate draws for it are audited, a name in `a1_sgl.session.AUDITS`.
        grader: how the chains' answers are compared, a name in `a1_sgl.answers.GRADERS`; equal ones have one vote.
        seed: of the sampling. Only runtimes with ``--enable-deterministic-inference`` honour it.
        logprobs: whether the writer's runtime is asked for the log-probabilities of what it writes, as in
            `a1_sgl.engine.Request`. A `Program` asks for what its gate's first stage and its `score` need.
        losses: whether verdicts tell the target's loss of every token, and not of the chunk alone.
        chain_tokens: most tokens of a chain, all of its chunks together as the runtimes count them; it then ends with
            ``length``. None leaves it to the program.
        chain_stop: strings at which a chain ends, wherever they come; it then ends with ``stop``, and its text before
            the string. They are not what ends a chunk.
        seeded_by: what the seeds of its generations are drawn by beside `seed`; None is the question's id. Whoever
            gives a question that is asked again a new id keeps its seeds so.
        watch: told of what is settled of each chain, at the end of each turn and while a writer writes what will stay.
    """

    question: Question
    samples: tuple[int, ...]
    listener: Listener | None = field(default=None, repr=False)
    vote: str = "majority"
    rate: str | None = None
    audit: str = "rewrite"
    grader: str = "math"
    seed: int | None = None
    logprobs: int | None = None
    losses: bool = False
    chain_tokens: int | None = None
    chain_stop: tuple[str, ...] = ()
    seeded_by: str | None = None
    watch: Watch | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.samples:
            raise ConfigError("a question needs at least one chain")
        if len(set(self.samples)) < len(self.samples) or min(self.samples) < 0:
            raise ConfigError(f"chains are numbered from 0, each once, not {self.samples}")
        if self.listener is not None:
            check_listener(self.listener)
        find_vote(self.vote)
        if self.rate is not None:
            from a1_sgl.session.rating import find_rate

            find_rate(self.rate)
        find_audit(self.audit)
        if self.grader not in GRADERS:
            raise ConfigError(f"unknown grader {self.grader!r}; known: {', '.join(GRADERS)}")
        if self.chain_tokens is not None and self.chain_tokens < 1:
            raise ConfigError(f"a chain has at least one token, not {self.chain_tokens}")
        if isinstance(self.chain_stop, str) or not all(self.chain_stop):
            raise ConfigError(f"a chain ends at strings that are not empty, given as a list, not {self.chain_stop!r}")

    @property
    def chains(self) -> int:
        """How many chains there are."""
        return len(self.samples)

    @classmethod
    def of(cls, question: str | Question, samples: int | Sequence[int], **rest: object) -> Query:
        """From a text or a `Question`, and how many chains or which.

        Raises:
            ConfigError: no chain at all.
            ValueError: an unknown vote, rate or audit.
        """
        if not isinstance(samples, int | Sequence) or isinstance(samples, str):
            raise ConfigError(f"samples are how many chains or their numbers, not {samples!r}")
        if isinstance(samples, int) and samples < 1:
            raise ConfigError(f"a question needs at least one chain, not {samples}")
        numbers = tuple(range(samples)) if isinstance(samples, int) else tuple(samples)
        return cls(Question.of(question), numbers, **rest)  # type: ignore[arg-type]
