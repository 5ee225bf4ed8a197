"""What other fleets, rates and programs would come to, from one record: a sweep of simulations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from a1_sgl.errors import ConfigError
from a1_sgl.evals.simulate.costs import Pair
from a1_sgl.evals.simulate.fleet import Arrivals, simulate
from a1_sgl.evals.simulate.load import Record, planned

KEPT_UP = 0.85
"""A fleet that answers fewer questions than this share of those that arrive, in the second half of the arrivals, does
not keep up: its queue grows. Arrivals must last for several times the latency, or none seems to."""


@dataclass(frozen=True)
class Plan:
    """What to sweep: every combination is one simulation.

    Attributes:
        arms: names in `a1_sgl.evals.simulate.load.ARMS`.
        alphas, chains, drafts, targets: as in `planned` and `simulate`. Arms that do not use one of them are simulated
            for its first value alone.
        questions: how many to simulate.
        arrivals: in flight are so many chains for each target worker, or draft where there is none.
        replaces: whether a take-over replaces the chunk; None is the record's way.
        stretch: how many times as long prompts, chunks and take-overs are as recorded.
        within: seconds in which 95% of the questions must be answered; None where nothing is asked.
        seed: of what is drawn.
    """

    arms: tuple[str, ...] = ("a1",)
    alphas: tuple[float, ...] = (0.25,)
    chains: tuple[int, ...] = (4,)
    drafts: tuple[int, ...] = (1,)
    targets: tuple[int, ...] = (1,)
    questions: int = 100
    arrivals: Arrivals = field(default_factory=Arrivals)
    replaces: bool | None = None
    stretch: float = 1.0
    within: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("arms", "alphas", "chains", "drafts", "targets"):
            if not getattr(self, name):
                raise ConfigError(f"a plan needs {name}")
        if self.within is not None and not self.within > 0:
            raise ConfigError(f"questions must be answered within more than 0 seconds, not {self.within:g}")

    def cells(self) -> Iterator[tuple[str, float | None, int, int, int]]:
        """Arm, alpha, chains, drafts and targets of every simulation."""
        for arm in dict.fromkeys(self.arms):
            alone = arm in ("draft", "target")
            alphas: Sequence[float | None] = (None,) if alone else self.alphas
            drafts = (0,) if arm == "target" else self.drafts
            targets = (0,) if arm == "draft" else self.targets
            yield from product((arm,), alphas, self.chains, drafts, targets)


@dataclass(frozen=True)
class Row:
    """One simulation.

    Attributes:
        per_second: questions a second, over all of the time.
        median, p95: latency of a question, seconds.
        draft, target: share of the time in which they compute.
        draft_batch, target_batch: sequences in a decode step, on average.
        device_s: seconds of devices a question takes, idle ones included.
        target_tokens: tokens that the target wrote, a question.
        again: share of the tokens read that were read before and given up for want of room.
        barrier: share of their time that chains wait for others of their question.
        keeps_up: whether the fleet keeps up with the arrivals, by `KEPT_UP`.
        meets: whether it keeps up and 95% of the questions are answered in time; None where nothing is asked.
    """

    arm: str
    alpha: float | None
    chains: int
    drafts: int
    targets: int
    per_second: float
    median: float
    p95: float
    draft: float
    target: float
    draft_batch: float
    target_batch: float
    device_s: float
    target_tokens: float
    again: float
    barrier: float
    keeps_up: bool
    meets: bool | None

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def sweep(record: Record, pair: Pair, plan: Plan) -> Iterator[Row]:
    """Simulates every cell. Errors as in `planned` and `simulate`."""
    for arm, alpha, chains, drafts, targets in plan.cells():
        questions = planned(
            record, arm, alpha or 0.0, chains, plan.questions, seed=plan.seed, replaces=plan.replaces,
            stretch=plan.stretch,
        )  # fmt: skip
        places = plan.arrivals.in_flight and plan.arrivals.in_flight * (targets or drafts)
        made = simulate(
            questions, pair, replace(plan.arrivals, in_flight=places), drafts=drafts, targets=targets, seed=plan.seed
        )
        count, read = len(questions), made.total("read")
        keeps_up = made.kept_up is None or made.kept_up >= KEPT_UP
        p95 = made.percentile(95)
        waited = made.barrier / (made.barrier + sum(map(sum, made.seconds.values())))
        yield Row(
            arm=arm, alpha=alpha, chains=chains, drafts=drafts, targets=targets, per_second=count / made.wall,
            median=made.percentile(50), p95=p95, draft=made.busy.get("draft", 0.0), target=made.busy.get("target", 0.0),
            draft_batch=made.batch("draft"), target_batch=made.batch("target"),
            device_s=(drafts * pair.draft.devices + targets * pair.target.devices) * made.wall / count,
            target_tokens=made.total("written", "target") / count, again=made.total("again") / read if read else 0.0,
            barrier=waited, keeps_up=keeps_up,
            meets=None if plan.within is None else keeps_up and p95 <= plan.within,
        )  # fmt: skip


def cheapest(rows: Sequence[Row]) -> Row | None:
    """Of the rows that meet what was asked, the one that takes the fewest seconds of devices a question."""
    fit = [row for row in rows if row.meets]
    return min(fit, key=lambda row: row.device_s, default=None)
