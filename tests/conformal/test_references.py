"""Against crepes (martingales, online p-values) and MAPIE (simple jumper, fixed sequence); wealth to 1e-12 relative."""

from itertools import takewhile

import numpy as np
import pytest
from crepes import martingales as crepes
from mapie.exchangeability_testing.martingales import OnlineMartingaleTest
from mapie.risk_control.fwer_control import control_fwer

from a1_sgl.conformal import ScoreBank, SimpleJumper, SleeperStayer, Trial

STREAMS = {
    "uniform": lambda rng: rng.random(600),
    "small late": lambda rng: np.concatenate([rng.random(300), rng.random(300) ** 4]),
    "large": lambda rng: rng.random(600) ** 0.5,
    "grid": lambda rng: rng.integers(0, 11, 600) / 10,  # on the very thresholds of the step bets
}
streams = pytest.mark.parametrize("ps", [make(np.random.default_rng(5)) for make in STREAMS.values()], ids=STREAMS)


def wealth(martingale, ps):
    return np.exp([martingale.update(p) for p in ps])


def same(mine, reference):
    return np.max(np.abs(np.asarray(mine) / np.asarray(reference) - 1)) < 1e-12


@streams
@pytest.mark.parametrize("jump", [0.01, 0.3])
def test_simple_jumper_is_that_of_crepes(ps, jump):
    assert same(wealth(SimpleJumper(jump), ps), crepes.SimpleJumper(J=jump).apply(ps))
    bets = [-1.5, -0.2, 1.9]
    reference = crepes.SimpleJumper(J=jump, bf=crepes.EpsilonBettingFunction(E=bets)).apply(ps)
    assert same(wealth(SimpleJumper(jump, bets), ps), reference)


@streams
@pytest.mark.parametrize(("wake", "grid"), [(0.001, 10), (0.05, 4)])
def test_sleeper_stayer_is_that_of_crepes(ps, wake, grid):
    reference = crepes.SleeperStayer(R=wake, bf=crepes.StepBettingFunction(G=grid)).apply(ps)
    assert same(wealth(SleeperStayer(wake, grid), ps), reference)


@streams
def test_simple_jumper_is_that_of_mapie(ps):
    reference = OnlineMartingaleTest(jump_size=0.02)
    values = [reference.update_simple_jumper_martingale(p) for p in ps]
    assert same(wealth(SimpleJumper(0.02, (-1, 0, 1)), ps), values)


@pytest.mark.parametrize("seed", range(5))
def test_wealth_on_online_p_values_is_that_of_crepes(seed):
    """From scores to wealth, with ties and a change half way."""
    scores = np.random.default_rng(seed).integers(0, 50, 400) / 7.0
    scores[200:] += 3
    np.random.seed(seed)  # crepes draws its smoothing numbers from numpy's global state
    draws = np.random.rand(len(scores))
    bank, martingale = ScoreBank(), SimpleJumper()
    mine = [martingale.update(bank.rank(s, add=True).smoothed(u)) for s, u in zip(scores, draws, strict=True)]
    reference = crepes.SimpleJumper().apply(crepes.semi_online_p_values(scores, seed=seed))
    assert same(np.exp(mine), reference)


@pytest.mark.parametrize("seed", range(40))
def test_what_is_certified_is_what_mapie_s_fixed_sequence_rejects(seed):
    """With the p-values that the bets imply, 1 over the largest wealth (Vovk and Wang 2021, proposition 2.2)."""
    rng = np.random.default_rng(seed)
    n, epsilon, delta = 128, 0.1, 0.2
    alphas = np.round(np.arange(1, 9) / 10, 1)[::-1]
    risks = np.sort(rng.uniform(0.02, 0.12, len(alphas))) if seed % 2 else rng.uniform(0.01, 0.12, len(alphas))
    draws = rng.random(n)
    trials = [Trial.of(float(a), (draws < r).tolist(), epsilon, delta) for a, r in zip(alphas, risks, strict=True)]
    p_values = np.array([min(1.0, 1 / trial.e_value) for trial in trials])
    rejected = alphas[control_fwer(p_values, delta, "fixed_sequence")]
    assert [trial.alpha for trial in takewhile(lambda trial: trial.certified, trials)] == rejected.tolist()
