import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from a1_sgl.conformal import MARTINGALES, ScoreBank, SimpleJumper, SleeperStayer

ps = st.lists(st.floats(0, 1), max_size=40)
both = pytest.mark.parametrize("kind", MARTINGALES.values(), ids=MARTINGALES)


def after(kind, ps):
    martingale = kind()
    for p in ps:
        martingale.update(p)
    return martingale


@both
@given(history=ps)
def test_the_next_bet_is_fair(kind, history):
    """Its mean over a uniform p-value is the wealth itself: that makes it a martingale."""
    martingale = after(kind, history)
    wealth, saved = math.exp(martingale.log_wealth), martingale.state()
    outcomes = []
    # The jumper is linear in p and the stayer constant on tenths, so midpoints of tenths give the exact mean.
    for p in (np.arange(10) + 0.5) / 10:
        martingale.restore(saved)
        outcomes.append(math.exp(martingale.update(p)))
    assert min(outcomes) > 0
    assert sum(outcomes) / 10 == pytest.approx(wealth, rel=1e-12)
    assert max(outcomes) > wealth or not history


@both
@given(first=ps, then=ps)
def test_a_saved_martingale_goes_on_as_it_would_have(kind, first, then):
    martingale, loaded = after(kind, first), after(kind, then)
    saved = json.dumps(martingale.state())
    wealth = [martingale.update(p) for p in then]
    loaded.restore(json.loads(saved))
    assert [loaded.update(p) for p in then] == wealth


@both
@given(history=ps)
def test_a_restarted_martingale_is_a_new_one(kind, history):
    martingale = after(kind, history)
    martingale.restart()
    assert martingale.log_wealth == 0
    assert martingale.state() == kind().state()


@both
@pytest.mark.parametrize("low", [True, False])
def test_wealth_grows_when_p_values_lean_and_never_overflows(kind, low):
    rng, martingale = random.Random(3), kind()
    for _ in range(6000):
        p = rng.random() * 0.1
        martingale.update(p if low else 1 - p)
    assert 1000 < martingale.log_wealth < math.inf
    for _ in range(3000):
        martingale.update(rng.random())
    assert math.isfinite(martingale.log_wealth)


@both
@pytest.mark.parametrize("bad", [-0.01, 1.01, math.nan])
def test_what_is_no_p_value_is_refused_and_changes_nothing(kind, bad):
    martingale = after(kind, [0.2, 0.4])
    before = martingale.state()
    with pytest.raises(ValueError, match=f"not {bad}"):
        martingale.update(bad)
    assert martingale.state() == before


def test_the_jumper_follows_one_bet_by_hand():
    one = SimpleJumper(jump=0.5, bets=(-1, 1))
    assert math.exp(one.update(0.1)) == pytest.approx(1.0)  # halves of 1.4 and 0.6
    assert math.exp(one.update(0.1)) == pytest.approx(0.6 * 1.4 + 0.4 * 0.6)  # 0.7 and 0.3, half spread evenly


def test_a_jumper_that_lost_all_stays_without():
    bold = SimpleJumper(bets=(2.0,))
    assert bold.update(0.0) == -math.inf
    assert bold.update(1.0) == -math.inf


def test_the_stayer_wakes_by_hand():
    one = SleeperStayer(wake=0.1, grid=2)  # one account, a = b = 1/2, whose bets are all 1
    assert [one.update(p) for p in (0.1, 0.9, 0.4)] == pytest.approx([0, 0, 0], abs=1e-12)
    one = SleeperStayer(wake=0.3, grid=3)
    # Accounts (1/3, 1/3), (1/3, 2/3), (2/3, 1/3), (2/3, 2/3) bet 1, 2, 1/2 and 1 on p = 0.1.
    assert math.exp(one.update(0.1)) == pytest.approx(0.7 + 0.3 * 4.5 / 4)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: SimpleJumper(jump=0), "jump .* not 0"),
        (lambda: SimpleJumper(jump=1), "jump .* not 1"),
        (lambda: SimpleJumper(bets=()), r"\[-2, 2\], not \[\]"),
        (lambda: SimpleJumper(bets=(0, 2.5)), r"\[-2, 2\], not \[0, 2.5\]"),
        (lambda: SleeperStayer(wake=0), "wake .* not 0"),
        (lambda: SleeperStayer(grid=1), "grid must be a whole number from 2 to 1000, not 1"),
    ],
)
def test_settings_that_cannot_be_are_named(make, what):
    with pytest.raises(ValueError, match=what):
        make()


def online_p_values(rng, n, change=None):
    """Smoothed p-values of an online bank that starts empty; scores have ties and rise at the change."""
    bank = ScoreBank()
    for i in range(n):
        score = float(rng.randrange(20)) + 8 * (change is not None and i >= change)
        yield bank.rank(score, add=True).smoothed(rng.random())


def test_wealth_reaches_a_threshold_no_more_often_than_it_may():
    rng, runs, threshold = random.Random(21), 1500, 20
    alarms = dict.fromkeys(MARTINGALES, 0)
    for _ in range(runs):
        ps = list(online_p_values(rng, 300))
        for name, kind in MARTINGALES.items():
            # A wake rate of 0.001 would hardly bet within 300 p-values.
            martingale = kind(wake=0.05) if kind is SleeperStayer else kind()
            alarms[name] += any(martingale.update(p) >= math.log(threshold) for p in ps)
    for name, count in alarms.items():
        assert binomtest(count, runs, 1 / threshold, alternative="greater").pvalue > 0.01, name
        assert count > 0, name


@both
def test_wealth_reaches_it_soon_after_a_change(kind):
    rng = random.Random(22)
    for _ in range(20):
        martingale, reached = kind(), None
        for i, p in enumerate(online_p_values(rng, 400, change=200)):
            if reached is None and martingale.update(p) >= math.log(100):
                reached = i
        assert reached is not None
        assert 200 <= reached < 300


@both
def test_p_values_that_are_not_uniform_would_be_caught(kind):
    """With plain ranks in place of smoothed p-values, ties alone set off the alarm."""
    rng, bank, martingale, most = random.Random(23), ScoreBank(), kind(), 0.0
    for _ in range(500):
        most = max(most, martingale.update(bank.rank(float(rng.randrange(2)), add=True).conservative))
    assert most > math.log(100)
