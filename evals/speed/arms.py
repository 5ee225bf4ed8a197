"""What is compared: programs on the same questions, with the same lengths, sampling and gate."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from a1_sgl.conformal import DEFAULT, Card, Decider, Decision, Place
from a1_sgl.errors import ConfigError
from a1_sgl.evals.runner import Eval
from a1_sgl.evals.tasks import Task
from a1_sgl.programs import find_program
from a1_sgl.session import Backend

ARMS = {
    "target": "the target alone: what the others are measured against",
    "draft": "the draft alone",
    "a1": "A1",
    "a1_lookahead": "A1, the next chunk drafted while the target verifies",
    "a1_sync": "a question's chains go from turn to turn together, and the worst are handed over",
    "reference": "a loop like the published code's: a question at a time, the history sent and tokenised anew as text",
}
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Fixed:
    """Lengths that do not depend on what is written: `turns` chunks of `tokens` tokens, whatever they say."""

    turns: int
    tokens: int

    def __post_init__(self) -> None:
        if self.turns < 1 or self.tokens < 2:
            raise ConfigError(f"fixed lengths are at least 1 turn of 2 tokens, not {self.turns} of {self.tokens}")

    @classmethod
    def parse(cls, text: str) -> Fixed:
        """Reads ``TURNSxTOKENS``.

        Raises:
            ConfigError: it is something else.
        """
        turns, x, tokens = text.partition("x")
        if not (x and turns.isdecimal() and tokens.isdecimal()):
            raise ConfigError(f"fixed lengths are TURNSxTOKENS, such as 8x64, not {text!r}")
        return cls(int(turns), int(tokens))

    def __str__(self) -> str:
        return f"{self.turns}x{self.tokens}"


@dataclass(frozen=True)
class Bench:
    """What to compare, and on what.

    Attributes:
        arms: names in `ARMS`; without any all of them, `a1_sync` only where alpha of the chains is a whole number.
        questions, chains, seed, alpha, card, gate_kind: as in `Eval`.
        repeats: how often each arm runs.
        take_over: ``continue`` or ``replace``; None is the task's way. Where lengths are fixed it is ``replace``, so
            that every arm writes as many tokens.
        fixed: lengths that do not depend on the text; None lets the text decide.
        paced: whether the gate is a `Paced` one.
    """

    task: Task
    questions: int
    chains: int
    alpha: float
    arms: tuple[str, ...] = ()
    repeats: int = 3
    split: str = "test"
    seed: int = 0
    take_over: str | None = None
    card: Card | None = None
    gate_kind: str = DEFAULT
    fixed: Fixed | None = None
    paced: bool = False
    temperature: float | None = None
    in_flight: int = 64

    def __post_init__(self) -> None:
        if not self.arms:
            object.__setattr__(self, "arms", tuple(arm for arm in ARMS if arm != "a1_sync" or self._whole))
        if unknown := [name for name in self.arms if name not in ARMS]:
            raise ConfigError(f"unknown arm {unknown[0]!r}; known: {', '.join(ARMS)}")
        if len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"an arm is named twice: {', '.join(self.arms)}")
        if "a1_sync" in self.arms and not self._whole:
            raise ConfigError(
                f"a1_sync hands over a whole number of chains a turn, and alpha {self.alpha:g} of {self.chains} is "
                "none; take other numbers, or leave it out"
            )
        if self.repeats < 1:
            raise ConfigError(f"repeats must be at least 1, not {self.repeats}")
        if self.temperature is not None and not self.temperature >= 0:
            raise ConfigError(f"temperature must be at least 0, not {self.temperature:g}")
        if self.take_over not in (None, "continue", "replace"):
            raise ConfigError(f"unknown take-over {self.take_over!r} for a bench; known: continue, replace")
        if self.fixed is not None and self.take_over == "continue":
            raise ConfigError(
                "with fixed lengths a take-over replaces the chunk, so that every arm writes as many tokens; leave "
                "take-over out"
            )
        for arm in self.arms:
            self.plan(arm)

    @property
    def _whole(self) -> bool:
        handed = self.alpha * self.chains
        return round(handed) >= 1 and abs(handed - round(handed)) < 1e-9

    @property
    def base(self) -> str:
        """The arm that the others are measured against: the target alone, or else the first one."""
        return "target" if "target" in self.arms else self.arms[0]

    def order(self, round_: int) -> tuple[str, ...]:
        """The arms of a round: every second round is the one before it backwards, and each two begin with another arm,
        so that what drifts with time falls on all of them."""
        shift = round_ // 2 % len(self.arms)
        arms = self.arms[shift:] + self.arms[:shift]
        return arms[::-1] if round_ % 2 else arms

    def plan(self, arm: str) -> Arm:
        """What `arm` runs. Errors as in `Eval`."""
        program = {"target": "direct", "draft": "direct", "reference": "a1"}.get(arm, arm)
        sampling: dict[str, Any] = {
            "temperature": self.task.temperature if self.temperature is None else self.temperature, "top_p": 1.0,
        }  # fmt: skip
        strategy = find_program(program)
        parameters: dict[str, Any] = {"budget": round(self.alpha * self.chains)}
        if self.take_over is not None:
            parameters["take_over"] = self.take_over
        if self.fixed is not None:
            turns, tokens = self.fixed.turns, self.fixed.tokens
            sampling["ignore_eos"] = True
            parameters |= {
                "turns": turns, "draft_tokens": tokens, "target_tokens": tokens, "max_tokens": turns * tokens,
                "take_over": "replace",
            }  # fmt: skip
        kind = _reference() if arm == "reference" else Arm
        return kind(
            task=self.task, split=self.split, program=program, runtime=arm if program == "direct" else None,
            chains=self.chains, sampling=sampling, questions=self.questions, seed=self.seed,
            chunking="tokens" if self.fixed else None, alpha=self.alpha, gate_kind=self.gate_kind,
            card=self.card if strategy.gate == "required" else None,
            allow_mismatch=("program",) if self.card is not None else (),  # all of A1's kind write alike
            parameters={name: value for name, value in parameters.items() if name in strategy.own}, arm=arm,
            paced=self.paced, in_flight=self.in_flight,
        )  # fmt: skip


@dataclass(frozen=True)
class Arm(Eval):
    """An `Eval` whose gate's time is taken."""

    arm: str = ""
    paced: bool = False
    in_flight: int = 64
    clock: Clock = field(default_factory=lambda: Clock(), compare=False, repr=False)

    @property
    def together(self) -> bool:
        """Whether chains wait for each other."""
        return self.strategy.joint

    @property
    def at_once(self) -> int:
        """Most chains in flight."""
        return self.in_flight

    def configuration(self, backend: Backend) -> dict[str, Any]:
        """As of an `Eval`, and what a bench adds."""
        return super().configuration(backend) | {"arm": self.arm, "paced": self.paced, "in_flight": self.in_flight}

    def gate(self) -> Decider | None:
        """As of an `Eval`, or a `Paced` one, with a clock."""
        gate = super().gate()
        if gate is None:
            return None
        return Clocked(Paced(gate.alpha) if self.paced else gate, self.clock)


@dataclass
class Clock:
    """Seconds, added up."""

    seconds: float = 0.0


class Clocked:
    """A gate that takes the time of its decisions."""

    def __init__(self, gate: Decider, clock: Clock) -> None:
        self.alpha, self._gate, self._clock = gate.alpha, gate, clock
        self.observe, self.calibrate, self.finish = gate.observe, gate.calibrate, gate.finish
        self.begin, self.end, self.audited = gate.begin, gate.end, gate.audited

    def __call__(self, score: float, **place: Any) -> Decision:
        """Decides, and takes the time."""
        began = time.perf_counter()
        decision = self._gate(score, **place)
        self._clock.seconds += time.perf_counter() - began
        return decision


class Paced:
    """A gate that hands over alpha of each chain's chunks, to within one, and exactly alpha of all in the long run, and
    does not look at them, so that speed can be measured with weights that cannot reason.

    A chain's take-overs are spread evenly over its turns, and those of different chains fall on different turns.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._phases: dict[tuple[Hashable, int], float] = {}

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """Decides by the chain and the turn."""
        phase = self._phases.setdefault((question, sample), len(self._phases) * _GOLDEN % 1)
        handed = math.floor((turn + 1) * self.alpha + phase) > math.floor(turn * self.alpha + phase)
        return Decision(score, 0.0 if handed else 1.0, self.alpha, 0)

    def observe(self, score: float, take_over: bool, **place: Any) -> None:
        """It remembers who came, and nothing else."""
        at = Place(**place)
        self._phases.setdefault((at.question, at.sample), len(self._phases) * _GOLDEN % 1)

    def calibrate(self, score: float, **place: Any) -> None:
        """It has no use for scores."""

    def audited(self, wrong: bool, **place: Any) -> None:
        """Nor for audits, of which it asks for none."""

    def finish(self, question: Hashable, sample: int) -> None:
        """Nor for ends."""

    def begin(self, question: Hashable) -> None:
        """Nor for beginnings."""

    def end(self, question: Hashable) -> None:
        """Nor for ends."""


def _reference() -> type[Arm]:
    from a1_sgl.evals.speed.reference import Reference

    return Reference
