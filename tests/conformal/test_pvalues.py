"""P-values: against crepes, and uniform under exchangeability by simulation, ties included."""

import random

import numpy as np
import pytest
from crepes.base import p_values_batch
from crepes.martingales import semi_online_p_values
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest

from a1_sgl.conformal import ScoreBank, conservative, smoothed

LEVEL = 0.01  # of every test by simulation


@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_crepes(ties):
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 12, 300) / 4.0 if ties else rng.normal(size=300)
    calibration, test = scores[:200], scores[200:]
    bank = ScoreBank(calibration)
    counts = [bank.counts(score) for score in test]
    reference = p_values_batch(calibration, test, smoothing=False)
    assert np.abs(np.array([conservative(*c) for c in counts]) - reference).max() < 1e-12
    np.random.seed(7)  # crepes draws its smoothing numbers from numpy's global state
    draws = np.random.rand(len(test))
    reference = p_values_batch(calibration, test, smoothing=True, seed=7)
    mine = [smoothed(*c, u) for c, u in zip(counts, draws, strict=True)]
    assert np.abs(np.array(mine) - reference).max() < 1e-12


def test_online_agrees_with_crepes():
    scores = np.random.default_rng(2).integers(0, 30, 400) / 7.0
    np.random.seed(3)
    draws = np.random.rand(len(scores))
    bank = ScoreBank()
    mine = [smoothed(*bank.counts(s, add=True), u) for s, u in zip(scores, draws, strict=True)]
    assert np.abs(np.array(mine) - semi_online_p_values(scores, seed=3)).max() < 1e-12


def draw(rng, ties):
    return float(rng.randrange(4)) if ties else rng.random()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [0, 1, 5, 100])
def test_smoothed_is_uniform_under_exchangeability(n, ties):
    rng = random.Random(f"{n}/{ties}")
    values = []
    for _ in range(4000):
        bank = ScoreBank(draw(rng, ties) for _ in range(n))
        values.append(smoothed(*bank.counts(draw(rng, ties)), rng.random()))
    assert kstest(values, "uniform").pvalue > LEVEL
    for alpha in (0.05, 0.3, 0.5):
        assert binomtest(sum(p <= alpha for p in values), len(values), alpha).pvalue > LEVEL


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [1, 5, 100])
def test_conservative_never_takes_over_too_often(n, ties):
    rng = random.Random(f"conservative/{n}/{ties}")
    for alpha in (0.05, 0.3, 0.5):
        hits = sum(
            conservative(*ScoreBank(draw(rng, ties) for _ in range(n)).counts(draw(rng, ties))) <= alpha
            for _ in range(3000)
        )
        assert binomtest(hits, 3000, alpha, alternative="greater").pvalue > LEVEL


def test_the_test_would_catch_the_plain_rank():
    """The rule `rank / n` that is often used in place of a p-value fails what the smoothed one passes."""
    rng = random.Random(5)
    n, alpha = 8, 0.4
    hits = 0
    for _ in range(4000):
        greater, _, of = ScoreBank(rng.random() for _ in range(n)).counts(rng.random())
        hits += (of - greater) / n >= 1 - alpha
    assert binomtest(hits, 4000, alpha).pvalue < 1e-4


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.floats(0, 1))
def test_smoothed_lies_between_its_bounds(greater, equal, less, u):
    n = greater + equal + less
    p = smoothed(greater, equal, n, u)
    assert 0 <= p <= conservative(greater, equal, n) <= 1


@pytest.mark.parametrize("bad", [(-1, 0, 3), (0, -1, 3), (2, 2, 3)])
def test_counts_must_fit(bad):
    with pytest.raises(ValueError, match="counts"):
        conservative(*bad)
    with pytest.raises(ValueError, match="counts"):
        smoothed(*bad, 0.5)
    with pytest.raises(ValueError, match="u must"):
        smoothed(0, 0, 3, 1.5)
