"""Fitting a pair to one recorded run, and how far a simulation is from others that the fit has not seen."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from a1_sgl.evals.simulate.costs import Pair
from a1_sgl.evals.simulate.fleet import Arrivals, Outcome, simulate, throughput
from a1_sgl.evals.simulate.load import Record

PRIOR = 0.1
"""How much a scale's logarithm counts beside that of an error: the costs were measured with one runtime at work and
are believed, so that what slows both down when both work is contention."""
LARGEST = 4.0
"""Most that a scale may be, and one over it the least."""
PARTS = 4
"""Of a run, by how many requests of a kind have ended: in the last one the draft has little to do, which tells the
contention from the scales."""
DIFFERENCE = 0.2
"""By how much a scale is changed to see what it does."""
ITERATIONS = 20


def replay(record: Record, pair: Pair) -> Outcome:
    """What the record's own requests take on a simulated pair, as many chains in flight as there were."""
    return simulate(record.questions, pair, Arrivals(record.in_flight))


def fit(record: Record, pair: Pair) -> Pair:
    """The pair with which a replay of the record takes what the record took: of its requests by role and kind, and of
    its wall-clock.

    Fitted are, for each role that it used, how many times as long decode and prefill steps take as the costs say, and
    the contention where it used both; the network's time is the record's own, where it tells. Least squares of the
    logarithms of the errors, and of the scales with weight `PRIOR`.
    """
    roles = sorted({role for role, _ in record.seconds})
    pair = pair.model_copy(update={"network": record.network})
    kinds = sorted(record.seconds)
    real = _logs([record.seconds[kind] for kind in kinds], record.wall)

    def scaled(found: Sequence[float]) -> Pair:
        changes: dict[str, Any] = {}
        for i, role in enumerate(roles):
            scales = {"decode_scale": float(found[2 * i]), "prefill_scale": float(found[2 * i + 1])}
            changes[role] = getattr(pair, role).model_copy(update=scales)
        if len(roles) > 1:
            changes["contention"] = float(found[-1]) - 1
        return pair.model_copy(update=changes)

    def errors(found: Any) -> Any:
        outcome = replay(record, scaled(found))
        made = _logs([outcome.seconds[kind] for kind in kinds], outcome.wall)
        return np.concatenate([made - real, PRIOR * np.log(found[: 2 * len(roles)])])

    both = [1.0] * (len(roles) > 1)  # one and the contention
    scales = np.ones(2 * len(roles))
    start = np.concatenate([scales, [1.3 * one for one in both]])
    low = np.concatenate([scales / LARGEST, both])
    high = np.concatenate([scales * LARGEST, [LARGEST * one for one in both]])
    # A simulation is a step function of its costs, so slopes are taken over steps that are larger than its treads.
    found = least_squares(
        errors, start, bounds=(low, high), diff_step=DIFFERENCE, xtol=1e-3, ftol=1e-4, max_nfev=ITERATIONS
    )
    return scaled(found.x)


@dataclass(frozen=True)
class Check:
    """A recorded run beside its simulation; errors are those of the simulation, as shares of what was recorded.

    Attributes:
        throughput: chains a second until three quarters have ended, recorded and simulated.
        latency: medians over questions.
        requests: mean seconds of requests, by role and kind.
    """

    name: str
    chains: int
    wall: tuple[float, float]
    throughput: tuple[float, float]
    latency: tuple[float, float]
    requests: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, record: Record, pair: Pair) -> Check:
        """Replays a record."""
        made = replay(record, pair)
        return cls(
            record.name, len(record.ended), (record.wall, made.wall),
            (throughput(record.ended), made.throughput()),
            (statistics.median(record.latency), made.percentile(50)),
            {
                f"{role} {'write' if writes else 'read'}": (_mean(of), _mean(made.seconds[role, writes]))
                for (role, writes), of in sorted(record.seconds.items())
            },
        )  # fmt: skip


def error(pair: tuple[float, float]) -> float:
    """Of what was recorded and what was simulated: the latter's relative error."""
    return pair[1] / pair[0] - 1


def _logs(kinds: Sequence[Sequence[float]], wall: float) -> Any:
    """Logarithms of what requests of each kind took on average in each part of the run, and of its wall-clock."""
    means = [part.mean() for of in kinds for part in np.array_split(np.array(of), min(PARTS, len(of)))]
    return np.log([*means, wall])


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)
