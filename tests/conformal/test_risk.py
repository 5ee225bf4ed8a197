import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, binomtest

from a1_sgl.conformal import Trial, log_wealth, questions_needed, regressions


def bets(lost, n, epsilon):
    """The wealth as it is defined: an average over risks below epsilon, by numerical integration."""

    def ratio(p):
        return math.exp(lost * math.log(p / epsilon) + (n - lost) * math.log((1 - p) / (1 - epsilon)))

    def weight(p):  # of Jeffreys' prior, after p = x ** 2, which takes its pole at 0 away
        return 2 / math.sqrt(1 - p)

    end = math.sqrt(epsilon)
    peak = [math.sqrt(lost / n)] if 0 < lost < epsilon * n else None
    value, _ = quad(lambda x: ratio(x * x) * weight(x * x), 0, end, points=peak, epsabs=0, epsrel=1e-10, limit=200)
    whole, _ = quad(lambda x: weight(x * x), 0, end, epsabs=0, epsrel=1e-12)
    return value / whole


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.3])
@pytest.mark.parametrize(("lost", "n"), [(0, 1), (1, 1), (0, 100), (2, 100), (9, 100), (40, 100), (3, 1000)])
def test_the_wealth_is_the_average_of_bets(lost, n, epsilon):
    assert math.exp(log_wealth(lost, n, epsilon)) == pytest.approx(bets(lost, n, epsilon), rel=1e-7)


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.005, 0.9))
def test_a_fair_bet_is_worth_what_it_costs(lost, kept, epsilon):
    """At a risk of epsilon the next question changes nothing on average; at a greater one the wealth falls."""
    n = lost + kept
    now, gone, more = (math.exp(log_wealth(*at, epsilon)) for at in ((lost, n), (lost + 1, n + 1), (lost, n + 1)))
    assert epsilon * gone + (1 - epsilon) * more == pytest.approx(now, rel=1e-8)
    assert gone <= now * (1 + 1e-9) <= more * (1 + 2e-9)
    assert log_wealth(0, 0, epsilon) == pytest.approx(0, abs=1e-12)


@given(st.integers(1, 400), st.floats(0.01, 0.5))
def test_the_wealth_is_near_that_of_the_best_bet_in_hindsight(n, epsilon):
    lost = np.arange(0, int(epsilon * n) + 1)
    best = binom.logpmf(lost, n, lost / n) - binom.logpmf(lost, n, epsilon)
    short = best - log_wealth(lost, n, epsilon)
    assert short.max() <= 0.5 * math.log(n) + 1.5
    assert short.min() >= -1e-9


def test_what_underflows_is_no_wealth_and_no_error():
    with np.errstate(all="raise", under="ignore", divide="raise"):
        assert log_wealth(1000, 1000, 0.01) == -np.inf
    test = Trial.of(0.3, [True] * 1000, 0.01, 0.1)
    assert (test.certified, test.lost) == (False, 1000)
    assert Trial.of(0.3, [False] * 100_000, 0.03, 0.1).e_value > 1e300  # nor what overflows


def test_counts_and_risks_are_broadcast():
    lost, epsilon = np.array([[0, 1, 1], [0, 0, 0]]), np.array([[0.1], [0.2]])
    wealth = log_wealth(lost, np.arange(1, 4), epsilon)
    assert wealth.shape == (2, 3)
    assert wealth[0, 1] == log_wealth(1, 2, 0.1)
    assert wealth[1, 2] == log_wealth(0, 3, 0.2)


@pytest.mark.parametrize(
    ("epsilon", "delta", "needed", "fixed"),
    [(0.03, 0.1, 98, 76), (0.03, 0.05, 125, 99), (0.05, 0.1, 59, 45), (0.05, 0.05, 74, 59)],
)
def test_questions_needed_with_none_lost(epsilon, delta, needed, fixed):
    """And how many an exact binomial test needs, for which their number must be fixed beforehand."""
    assert questions_needed(epsilon, delta) == needed
    assert Trial.of(0.3, [False] * needed, epsilon, delta).after == needed
    assert not Trial.of(0.3, [False] * (needed - 1), epsilon, delta).certified
    assert min(n for n in range(1, 200) if binom.cdf(0, n, epsilon) <= delta) == fixed


@given(st.floats(0.005, 0.9), st.floats(0.001, 0.9))
def test_questions_needed_are_the_fewest(epsilon, delta):
    n = questions_needed(epsilon, delta)
    assert log_wealth(0, n, epsilon) >= -math.log(delta)
    assert n == 1 or log_wealth(0, n - 1, epsilon) < -math.log(delta)


def test_regressions_are_what_only_the_reference_got_right():
    assert regressions([True, True, False, False], [True, False, True, False]) == [False, False, True, False]
    with pytest.raises(ValueError, match="zip"):
        regressions([True], [True, False])


def test_what_has_passed_stays_passed_whatever_comes_later():
    losses = [False] * 60 + [True] * 40
    test = Trial.of(0.3, losses, 0.05, 0.1)
    assert (test.lost, test.n, test.after, test.certified) == (40, 100, 59, True)
    assert test.e_value == pytest.approx(math.exp(log_wealth(0, 60, 0.05)))
    assert not Trial.of(0.3, losses[::-1], 0.05, 0.1).certified


@pytest.mark.parametrize(
    ("losses", "epsilon", "delta", "what"),
    [
        ([], 0.1, 0.1, "a test needs questions"),
        ([0.009] * 100, 0.1, 0.1, "True or False"),
        ([False], 0.0, 0.1, "not 0.0 and 0.1"),
        ([False], 0.1, 1.0, "not 0.1 and 1.0"),
    ],
)
def test_what_cannot_be_tested_is_named(losses, epsilon, delta, what):
    with pytest.raises(ValueError, match=what):
        Trial.of(0.3, losses, epsilon, delta)
    with pytest.raises(ValueError, match="strictly between"):
        questions_needed(0.1, 1)


@pytest.mark.parametrize(
    "changes", [{"alpha": 1.0}, {"lost": 11}, {"lost": -1}, {"e_value": -1.0}, {"e_value": math.nan}, {"after": 11}]
)
def test_a_test_that_cannot_be_is_refused(changes):
    good = {"alpha": 0.3, "lost": 0, "n": 10, "e_value": 2.0, "after": None}
    Trial(**good)
    with pytest.raises(ValueError, match="alpha must lie|counts do not fit|certified after"):
        Trial(**good | changes)


def most(lost, epsilon):
    """The largest log wealth of each row after any of its questions."""
    return log_wealth(np.cumsum(lost, axis=1), np.arange(1, lost.shape[1] + 1), epsilon).max(axis=1)


@pytest.mark.parametrize("epsilon", [0.03, 0.3])
def test_looking_after_every_question_certifies_too_much_no_more_often_than_delta(epsilon):
    runs, wrong = 1000, {}
    wealth = most(np.random.default_rng(7).random((runs, 1000)) < epsilon, epsilon)
    for delta in (0.1, 0.05, 0.01):
        wrong[delta] = int((wealth >= -math.log(delta)).sum())
        assert binomtest(wrong[delta], runs, delta, alternative="greater").pvalue > 0.01
    assert wrong[0.1] > runs * 0.05  # no hopelessly careful test either


def test_looking_again_at_a_binomial_test_would_be_caught():
    """A p-value for a number of questions fixed beforehand, looked at after each increment until it passes."""
    runs, n = 500, np.arange(100, 2001, 50)
    counts = np.cumsum(np.random.default_rng(8).random((runs, 2000)) < 0.1, axis=1)[:, n - 1]
    wrong = int((binom.cdf(counts, n, 0.1) <= 0.1).any(axis=1).sum())
    assert binomtest(wrong, runs, 0.1, alternative="greater").pvalue < 1e-4


def test_it_certifies_what_is_well_below_epsilon():
    lost = np.random.default_rng(9).random((1000, 500)) < 0.01
    certified = most(lost, 0.04) >= -math.log(0.1)
    assert binomtest(int(certified.sum()), 1000, 0.95, alternative="less").pvalue > 0.01
    # An exact binomial test of all 500, with a number fixed beforehand, is the better one, and not by much.
    fixed = binom.cdf(lost.sum(axis=1), 500, 0.04) <= 0.1
    assert certified.sum() >= 0.95 * fixed.sum()
