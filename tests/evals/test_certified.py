"""That a certificate keeps its promise as it is used: simulated questions, cards drawn anew, gates as they are.

The risk of a frozen policy is known exactly here, given its card. Epsilon lies just below it, where a false certificate
is most probable.
"""

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from a1_sgl.conformal import FROZEN, Place, Trial, make
from a1_sgl.evals.benchmarks.certified import (
    ALPHA,
    ALPHAS,
    DELTAS,
    World,
    in_lanes,
    learning,
    passes,
    paths,
    sequence,
    taken,
)


def no_more_than(hits, runs, delta):
    return binomtest(int(hits), runs, delta, alternative="greater").pvalue > 0.01


def test_what_is_simulated_is_what_the_gate_decides():
    world, rng = World(3), np.random.default_rng(1)
    card = world.card(20, rng)
    gate = make(FROZEN, ALPHA, seed=5)
    card.fill(gate)
    hard, scores = world.draw(100, rng)
    scores[::7] = card.scores[:3]  # ties
    places = [[Place(f"b{q}", 0, t) for t in range(3)] for q in range(100)]
    draws = np.array([[gate.draw(place) for place in row] for row in places])
    decided = [
        [gate(s, **place._asdict()).take_over for s, place in zip(row, where, strict=True)]
        for row, where in zip(scores.tolist(), places, strict=True)
    ]
    over = taken(scores, draws, np.sort(card.scores), ALPHA)
    assert over.tolist() == decided
    # and in whatever order they come up
    again = make(FROZEN, ALPHA, seed=5)
    card.fill(again)
    assert in_lanes(world, again, hard, scores, 9) == (hard & ~over.all(axis=1)).tolist()


@pytest.mark.parametrize(("turns", "calibrated"), [(1, 60), (3, 7)])
def test_the_risk_of_a_frozen_policy_is_exact(turns, calibrated):
    world, rng = World(turns), np.random.default_rng(2)
    card = world.card(calibrated, rng)
    hard, scores = world.draw(40_000, rng)
    lost = hard & ~taken(scores, rng.random(scores.shape), np.sort(card.scores), ALPHA).all(axis=1)
    assert binomtest(int(lost.sum()), 40_000, world.risk(card, ALPHA)).pvalue > 0.01


@pytest.mark.parametrize("turns", [1, 3])
def test_it_is_certified_falsely_no_more_often_than_delta(turns):
    runs = 1000
    lost, risks = paths(World(turns), runs, 300, 60, 3)
    most = passes(lost, 0.999 * risks)
    for delta in DELTAS:
        for n in (100, 300):
            assert no_more_than((most[:, n - 1] >= -math.log(delta)).sum(), runs, delta)
    assert (most[:, -1] >= -math.log(0.1)).mean() > 0.04  # no hopelessly careful test either


def test_adding_questions_until_it_passes_is_no_second_chance():
    runs, wrong = 300, 0
    lost, risks = paths(World(1), runs, 600, 60, 4)
    for row, risk in zip(lost.tolist(), risks[:, 0].tolist(), strict=True):
        wrong += any(Trial.of(ALPHA, row[:n], 0.999 * risk, 0.1).certified for n in range(40, 601, 40))
    assert no_more_than(wrong, runs, 0.1)


def test_a_whole_sequence_of_levels_is_wrong_no_more_often_than_delta():
    """Real gates and cards, many questions in flight, chunks in random arrival; the third level is one too many."""
    runs = 200
    rows = sequence(World(1), runs, 150, 60, 2, 5)
    for i, delta in enumerate(DELTAS):
        assert no_more_than(sum(row[i].alpha == ALPHAS[2] and row[i].certified for row in rows), runs, delta)
    assert sum(row[0].alpha == ALPHAS[2] for row in rows) > runs / 4  # it was reached


def test_what_is_well_below_epsilon_is_certified():
    lost, risks = paths(World(1), 300, 200, 60, 6)
    assert (passes(lost, 3 * risks)[:, -1] >= -math.log(0.1)).mean() > 0.9


def test_a_gate_that_learns_cannot_be_certified_so():
    """Its questions share what it has learnt, so an exact test that takes them for independent is wrong too often."""
    counts = learning(World(1), "marginal", 150, 300, 7)
    wrong = (binom.cdf(counts, 300, 0.99 * counts.mean() / 300) <= 0.01).sum()
    assert binomtest(int(wrong), 150, 0.01, alternative="greater").pvalue < 1e-4
