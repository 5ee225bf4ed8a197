"""What gates promise, by simulation: exact binomial tests at the 1% level with fixed seeds."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, binom, binomtest, chisquare, kstest

from a1_sgl.conformal import Gate, MondrianBank, Place, ScoreBank, make

LEVEL = 0.01  # of every test by simulation


def holds(hits, n, alpha, checks=1):
    """At the 1% level for all of a test's `checks` together."""
    return binomtest(int(hits), n, alpha).pvalue > LEVEL / checks


def fits_binomial(counts, n, alpha, checks=1, cells=12):
    """Whether runs' counts of take-overs are Binomial(n, alpha), by a chi-square test on cells of like probability."""
    edges = np.unique(binom.ppf(np.arange(1, cells) / cells, n, alpha))
    inside = np.diff(np.concatenate([[0], binom.cdf(edges, n, alpha), [1]]))
    observed = np.bincount(np.searchsorted(edges, counts), minlength=len(inside))
    return chisquare(observed, inside * len(counts)).pvalue > LEVEL / checks


def runs(online, alpha, ties, number=600, n=100):
    rng = random.Random(f"{alpha}/{ties}/{online}")
    for run in range(number):
        start = () if online else (rng.random() for _ in range(20))
        gate = Gate(alpha, ScoreBank(start), online=online, seed=run)
        scores = [float(rng.randrange(4)) if ties else rng.random() for _ in range(n)]
        yield [gate(s, question=run, sample=0, turn=t).take_over for t, s in enumerate(scores)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.5])
def test_online_take_overs_are_independent_draws_at_rate_alpha(alpha, ties):
    taken = np.array(list(runs(True, alpha, ties)))
    assert holds(taken.sum(), taken.size, alpha, checks=6)
    assert fits_binomial(taken.sum(axis=1), taken.shape[1], alpha, checks=6)
    # From the very first chunk of an empty bank, and no more often after a take-over than otherwise.
    assert all(holds(taken[:, t].sum(), len(taken), alpha, checks=6) for t in (0, 1, 99))
    after = taken[:, 1:][taken[:, :-1]]
    assert holds(after.sum(), after.size, alpha, checks=6)


def test_the_test_would_catch_dependent_take_overs():
    """Chunks that share a fixed bank of 20 scores have the right rate, but their counts vary more."""
    taken = np.array(list(runs(False, 0.3, ties=False)))
    assert all(holds(taken[:, t].sum(), len(taken), 0.3, checks=6) for t in (0, 50, 99))
    assert not fits_binomial(taken.sum(axis=1), taken.shape[1], 0.3, checks=6)


def rate_given(bank, alpha, conservative=False):
    """The chance, over a new score from Uniform(0, 1) and its draw, that it is handed over by this fixed bank."""
    edges, rate = [0.0, *sorted(bank), 1.0], 0.0
    ranks = ScoreBank(bank)
    for low, high in itertools.pairwise(edges):
        rank = ranks.rank((low + high) / 2)
        if conservative:
            share = float(rank.conservative <= alpha)
        else:
            share = min(1.0, max(0.0, (alpha - rank.low) / (rank.high - rank.low)))
        rate += (high - low) * share
    return rate


def law_of_the_rate(r, alpha, n):
    """P(rate <= r) by docs/guarantees.md: of (1 - f) V_k + f V_{k+1}, order statistics of n uniform draws."""
    k = math.floor(alpha * (n + 1) + 1e-9)
    f = max(0.0, alpha * (n + 1) - k)
    if f < 1e-9:
        return beta.cdf(r, k, n + 1 - k)
    if k == 0:
        return 1 - (1 - min(1.0, r / f)) ** n

    def given(v):  # the next one is v + (1 - v) B with B from Beta(1, n - k)
        return beta.pdf(v, k, n + 1 - k) * (1 - (1 - min(1.0, (r - v) / (f * (1 - v)))) ** (n - k))

    kink = min(r, max(0.0, (r - f) / (1 - f)))  # below, the next one cannot be too large
    return quad(given, 0, kink)[0] + quad(given, kink, r)[0]


@pytest.mark.parametrize(("alpha", "n"), [(0.25, 3), (0.2, 19), (0.3, 4), (0.1, 4), (0.25, 20), (0.7, 4)])
def test_the_rate_given_a_fixed_bank_has_the_law_that_is_stated(alpha, n):
    rng = random.Random(f"law/{alpha}/{n}")
    rates = [rate_given([rng.random() for _ in range(n)], alpha) for _ in range(2000)]
    grid = np.linspace(0, 1, 150)
    law = np.array([law_of_the_rate(r, alpha, n) for r in grid])
    assert kstest(rates, lambda x: np.interp(x, grid, law)).pvalue > LEVEL
    k, f = divmod(alpha * (n + 1) + 1e-12, 1)
    spread = (1 - f) ** 2 * k * (n + 1 - k) + f**2 * (k + 1) * (n - k) + 2 * f * (1 - f) * k * (n - k)
    assert np.mean(rates) == pytest.approx(alpha, abs=0.01)
    assert np.var(rates) == pytest.approx(spread / ((n + 1) ** 2 * (n + 2)), rel=0.1)
    if n == 4:  # and not, as it may seem, a beta law with the right mean
        assert kstest(rates, beta(alpha * (n + 1), (1 - alpha) * (n + 1)).cdf).pvalue < LEVEL


@pytest.mark.parametrize(("alpha", "n"), [(0.25, 3), (0.3, 9), (0.35, 9), (0.27, 20)])
def test_the_conservative_rate_given_a_fixed_bank_is_beta(alpha, n):
    rng = random.Random(f"conservative/{alpha}/{n}")
    k = math.floor(alpha * (n + 1) + 1e-9)
    rates = [rate_given([rng.random() for _ in range(n)], alpha, conservative=True) for _ in range(3000)]
    assert kstest(rates, beta(k, n + 1 - k).cdf).pvalue > LEVEL


def p_values_of_redraws(named, alpha=0.4, number=2000, retries=2):
    """By attempt, of a gate's first chunk, drawn again while it is rejected; `named` says what it calls an attempt."""
    rng, found = random.Random("redraws"), [[] for _ in range(retries + 1)]
    for run in range(number):
        gate = make("marginal", alpha, seed=run)
        for attempt in range(retries + 1):
            decision = gate(rng.random(), question="q", sample=0, turn=0, attempt=named(attempt))
            found[attempt].append(decision.p_value)
            if not decision.take_over:
                break
    return found


def test_p_values_are_uniform_at_every_attempt():
    """Although a chunk is drawn again just where the draw before was rejected."""
    found = p_values_of_redraws(lambda attempt: attempt)
    assert all(len(ps) > 200 for ps in found)
    assert all(kstest(ps, "uniform").pvalue > LEVEL / len(found) for ps in found)


def test_the_test_would_catch_attempts_that_share_a_draw():
    assert all(kstest(ps, "uniform").pvalue < 1e-6 for ps in p_values_of_redraws(lambda attempt: 0)[1:])


@pytest.mark.parametrize("name", ["marginal", "mondrian-turn", "random"])
def test_draws_are_rejected_at_alpha_at_every_attempt(name):
    """A run of a program that redraws, over exchangeable scores with ties: alpha is the rate of rejected draws."""
    rng, alpha, retries = random.Random(f"rejected/{name}"), 0.3, 3
    gate, hits, n = make(name, alpha, seed=5), Counter(), Counter()
    for question in range(400):
        for sample in range(4):
            for turn in range(2):
                for attempt in range(retries + 1):
                    place = Place(question, sample, turn, attempt=attempt)
                    took = gate(float(rng.randrange(50)), **place._asdict()).take_over
                    hits[attempt] += took
                    n[attempt] += 1
                    if not took:
                        break
    assert all(holds(hits[k], n[k], alpha, checks=retries + 1) for k in range(retries + 1))


def by_turn(rng, turn):
    """A distribution for each turn, of which the last is discrete."""
    return (rng.gauss(0, 1), 3 + 0.5 * rng.random(), rng.expovariate(0.2), 4.0 * rng.randrange(3))[turn]


def test_mondrian_holds_in_every_category_and_one_bank_does_not():
    rng, alpha, n = random.Random(11), 0.2, 3000
    bank, plain = MondrianBank("turn", minimum=5), ScoreBank()
    hits, wrong = Counter(), Counter()
    for i in range(n):
        for turn in range(4):
            score, place, u = by_turn(rng, turn), Place(i, 0, turn), rng.random()
            p = bank.rank(score, place, add=True).smoothed(u)
            if i >= 5:
                hits[turn] += p <= alpha
                wrong[turn] += plain.rank(score, add=True).smoothed(u) <= alpha
    assert all(holds(hits[turn], n - 5, alpha, checks=4) for turn in range(4))
    assert not any(holds(wrong[turn], n - 5, alpha, checks=4) for turn in range(4))


def test_mondrian_holds_right_from_the_minimum_on():
    """The first p-value of a category's own, over many banks; the parent's scores are of another distribution."""
    rng, alpha, number = random.Random(12), 0.3, 3000
    hits = 0
    for _ in range(number):
        bank = MondrianBank("turn", minimum=4)
        for turn in (0, 0, 0, 0, 1, 1, 1, 1):
            bank.add(by_turn(rng, turn), Place("q", 0, turn))
        hits += bank.rank(by_turn(rng, 1), Place("q", 0, 1)).smoothed(rng.random()) <= alpha
    assert holds(hits, number, alpha)


@pytest.mark.parametrize("name", ["mondrian-turn", "mondrian-question", "window"])
def test_small_categories_hold_alpha_where_they_are_as_their_parent(name):
    """At the first chunk, and when some categories have passed their minimum, and most; each over many runs."""
    alpha, number, at = 0.3, 500, (0, 40, 90)
    hits = Counter()
    for run in range(number):
        rng, gate = random.Random(f"{name}/{run}"), make(name, alpha, seed=run)
        for i in range(at[-1] + 1):
            decision = gate(float(rng.randrange(9)), question=rng.randrange(3), sample=i, turn=rng.randrange(4))
            hits[i] += decision.take_over
    assert all(holds(hits[i], number, alpha, checks=len(at)) for i in at)


@pytest.mark.parametrize("m", [1, 8])
def test_presampled_holds_over_questions_that_differ(m):
    rng, alpha, number = random.Random(f"presampled/{m}"), 0.3, 3000
    gate, first, last = make("presampled", alpha, seed=2), 0, 0
    for question in range(number):
        level, spread = question, 0.1 + question % 7  # the questions drift: no bank of all could do
        for sample in range(m):
            gate.calibrate(rng.gauss(level, spread), question=question, sample=sample)
        taken = [gate(rng.gauss(level, spread), question=question, sample=0, turn=t).take_over for t in range(3)]
        first, last = first + taken[0], last + taken[-1]
    assert holds(first, number, alpha, checks=2)
    assert holds(last, number, alpha, checks=2)
    assert len(gate.bank) == number * m


STREAMS = {
    "abrupt": lambda rng, i, n: rng.gauss(0, 1) + 6 * (i > n / 2),
    "gradual": lambda rng, i, n: rng.gauss(0, 1) + 12 * i / n,
    "falling": lambda rng, i, n: rng.random() - i,
    "alternating": lambda rng, i, n: (-1) ** (i // 100) * i + rng.random(),
    "constant": lambda rng, i, n: 1.0,
}
STEPS = {"adaptive": 1 / 40, "adaptive-turn": 1 / 10, "decaying-turn": 1}  # of alpha * (1 - alpha)


def bound(name, alpha, n):
    if name == "balanced":
        return (3 + max(alpha, 1 - alpha)) / n
    step = STEPS[name] * alpha * (1 - alpha)
    return (1 + step) / (step * n**0.4) if name == "decaying-turn" else (max(alpha, 1 - alpha) + step) / (step * n)


def worst_excess(name, alpha, chunks, seed=0):
    """By how much a category's rate ever passes its bound, with `chunks` of score, question and turn."""
    gate = make(name, alpha, seed=seed)
    n, hits, worst = Counter(), Counter(), -1.0
    for i, (score, question, turn) in enumerate(chunks):
        category = {"adaptive": None, "balanced": question}.get(name, turn)
        n[category] += 1
        hits[category] += gate(score, question=question, sample=i, turn=turn).take_over
        off = abs(hits[category] / n[category] - alpha)
        worst = max(worst, off - bound(name, alpha, n[category]))
    return worst


def drifting(stream, n=3000, seed=3):
    rng = random.Random(f"{stream}/{seed}")
    return [(STREAMS[stream](rng, i, n), i * 6 // n, i % 3) for i in range(n)]


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", ["adaptive", "adaptive-turn", "decaying-turn", "balanced"])
@pytest.mark.parametrize("alpha", [0.1, 0.4])
def test_adaptive_gates_keep_their_bounds_under_drift(name, stream, alpha):
    assert worst_excess(name, alpha, drifting(stream)) <= 1e-9


@pytest.mark.parametrize("name", ["adaptive", "adaptive-turn", "decaying-turn", "balanced"])
@settings(max_examples=30)
@given(
    chunks=st.lists(
        st.tuples(st.sampled_from([-1e300, 0.0, 1e300]) | st.floats(-9, 9), st.integers(0, 2), st.integers(0, 1)),
        max_size=150,
    ),
    alpha=st.sampled_from([0.05, 0.5, 0.9]),
)
def test_adaptive_gates_keep_their_bounds_whatever_the_scores(name, chunks, alpha):
    assert worst_excess(name, alpha, chunks) <= 1e-9


def extreme(alpha, sign, n=1500):
    """Scores that each beat all before, or none."""
    return [(float(sign * i), "q", 0) for i in range(n)]


@pytest.mark.parametrize("sign", [1, -1])
def test_marginal_would_break_every_one_of_these_bounds(sign):
    for name in ("adaptive", "adaptive-turn", "balanced"):
        gate, n = make("marginal", 0.3), 1500
        hits = sum(gate(s, question=q, sample=i, turn=t).take_over for i, (s, q, t) in enumerate(extreme(0.3, sign, n)))
        assert abs(hits / n - 0.3) > bound(name, 0.3, n)
        assert worst_excess(name, 0.3, extreme(0.3, sign, n)) <= 1e-9


def test_a_decaying_level_settles_where_scores_are_stationary():
    levels = {}
    for name in ("decaying-turn", "adaptive-turn"):
        rng, gate = random.Random(8), make(name, 0.3)
        levels[name] = [gate(rng.random(), question="q", sample=i, turn=0).alpha for i in range(6000)][-2000:]
    assert np.std(levels["decaying-turn"]) < np.std(levels["adaptive-turn"]) / 2
    assert np.abs(np.array(levels["decaying-turn"]) - 0.3).max() < 0.1


def test_balanced_holds_turns_too_and_picks_the_strange():
    """Measured, not proved: rates by turn within two points, though turns, questions and time all differ."""
    rng, alpha, gate = random.Random(9), 0.2, make("balanced", 0.2)
    hits, n, strange = Counter(), Counter(), Counter()
    for question in range(60):
        for turn in range(5):
            for sample in range(16):
                odd = rng.random() < 0.2
                score = rng.gauss(question / 10 + turn, 1) + 3 * odd
                took = gate(score, question=question, sample=sample, turn=turn).take_over
                hits[turn] += took
                n[turn] += 1
                strange[took] += odd
    assert all(abs(hits[turn] / n[turn] - alpha) < 0.02 for turn in range(5))
    assert strange[True] / sum(hits.values()) > 0.5
