import itertools
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from a1_sgl.conformal import (
    Decided,
    Fixed,
    Offsets,
    OpenBudget,
    Place,
    Rate,
    Rates,
    TurnBudget,
    exact_interval,
    missed_at_most,
)
from a1_sgl.conformal.rates import effective_size, summary

decided = st.builds(
    Decided,
    st.builds(Place, st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 1)),
    st.sampled_from([0.0, 1.0, 2.0]) | st.floats(-3, 3),
    st.booleans(),
)


def cell(scores, taken, question="q", turn=0):
    return [
        Decided(Place(question, i, turn), score, bool(took))
        for i, (score, took) in enumerate(zip(scores, taken, strict=True))
    ]


def counts(rates):
    return {category: (rate.hits, rate.n) for category, rate in rates.items()}


def test_rates_by_hand():
    rates = Rates.of(0.5, [*cell([1, 2, 3], [1, 0, 0], "b"), *cell([1, 2], [1, 1], "a", turn=1)])
    assert rates.overall[:2] == (3, 5)
    assert rates.overall.realised == 0.6
    assert counts(rates.by("question")) == {"b": (1, 3), "a": (2, 2)}
    assert list(rates.by("question")) == ["b", "a"]
    assert counts(rates.by(("question", "turn"))) == {("b", 0): (1, 3), ("a", 1): (2, 2)}
    assert counts(rates.by(lambda place: place.sample > 0)) == {False: (2, 2), True: (1, 3)}
    assert rates.deviations("question") == pytest.approx([1 / 6, 1 / 2])
    assert rates.deviations("question", minimum=3) == pytest.approx([1 / 6])


def test_nothing_decided():
    rates = Rates.of(0.3, iter(()))
    assert (rates.overall, rates.overall.realised, rates.overall.interval()) == (Rate(0, 0), None, (0.0, 1.0))
    assert (rates.by("turn"), rates.deviations("turn"), rates.selectivity(), rates.recall()) == ({}, [], None, None)
    assert summary(Rate(0, 0)) == {"realised": None, "low": None, "high": None, "decisions": 0, "bound": None}


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_are_clopper_and_pearson_s(hits, misses, level):
    n = hits + misses
    if n == 0:
        return
    reference = binomtest(hits, n).proportion_ci(level, method="exact")
    assert exact_interval(hits, n, level) == pytest.approx((reference.low, reference.high), rel=1e-9, abs=1e-12)
    assert Rate(hits, n).interval() == exact_interval(hits, n)


def test_intervals_take_effective_sizes_and_refuse_what_is_no_rate():
    low, high = exact_interval(2.5, 7.5)
    assert exact_interval(1, 3)[0] < low < 1 / 3 < high < exact_interval(1, 3)[1]
    assert Rate(3, 9, 7.5).interval() == exact_interval(2.5, 7.5)
    for hits, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"not a rate: {hits} of {n}"):
            exact_interval(hits, n)


@given(st.integers(1, 10**6), st.floats(0, 1), st.data())
def test_a_rate_of_any_effective_size_has_an_interval(n, share, data):
    """Rounding takes no count past its size: 5 of 5 at a size of 21.7208... once was more than all."""
    hits = data.draw(st.integers(0, n) | st.just(n))
    low, high = Rate(hits, n, max(1.0, n * share)).interval()
    assert 0 <= low <= high <= 1
    assert low == 0 if hits == 0 else low > 0
    assert high == 1 if hits == n else low < 1


def test_the_summary_is_that_of_the_interval():
    low, high = Rate(3, 10, 5.0).interval()
    assert summary(Rate(3, 10, 5.0, 0.2)) == {
        "realised": 0.3, "low": low, "high": high, "decisions": 10, "bound": 0.2
    }  # fmt: skip


def test_the_effective_size_by_hand():
    # Four clusters of ten: p is 0.25, the variance 4/3 * (1.5^2 + 0.5^2 + 0.5^2 + 1.5^2) / 40^2.
    variance = 4 / 3 * 5 / 1600
    size = min(40, 0.25 * 0.75 / variance)
    assert effective_size([1, 2, 3, 4], [10] * 4) == pytest.approx(size * (1.959964 / t.ppf(0.975, 3)) ** 2, rel=1e-6)
    assert effective_size([1, 9, 0, 10], [10] * 4) == 4  # no less than there are clusters
    # One hit of 8 chains with 120 chunks each: one degree of freedom.
    variance = 8 / 7 * ((1 - 1 / 8) ** 2 + 7 / 64) / 960**2
    size = min(960, 1 / 960 * 959 / 960 / variance)
    assert effective_size([1] + [0] * 7, [120] * 8) == pytest.approx(size * (1.959964 / t.ppf(0.975, 1)) ** 2, rel=1e-6)
    assert effective_size([5] * 40, [10] * 40) == pytest.approx(400 * (1.959964 / t.ppf(0.975, 39)) ** 2, rel=1e-6)


@pytest.mark.parametrize("hits", [[0, 0, 0], [5, 5, 2], [1, 0, 0], [5, 4, 2]])
def test_few_hits_or_misses_say_nothing_of_dependence(hits):
    """None, or in one of three questions: then questions count, by their sizes, and not chunks."""
    assert effective_size(hits, [5, 5, 2]) == pytest.approx(144 / 54)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_the_effective_size_is_between_full_dependence_and_none(clusters):
    clusters = [(hit, hit + miss) for hit, miss in clusters if hit + miss]
    if not clusters:
        return
    hits, sizes = zip(*clusters, strict=True)
    n = sum(sizes)
    size = effective_size(hits, sizes)
    assert n**2 / sum(s * s for s in sizes) <= size * (1 + 1e-12)
    assert size <= n * (1 + 1e-12)
    low, high = Rate(sum(hits), n, size).interval()
    assert low <= sum(hits) / n <= high


def test_a_rate_of_one_question_is_clustered_by_its_chains():
    chains = [Decided(Place("q", s, turn), 0.0, s < 2) for s in range(8) for turn in range(50)]
    others = [Decided(Place(q, 0, 0), 0.0, False) for q in range(9)]
    rate = Rates.of(0.3, chains + others).by("question")["q"]
    assert rate[:3] == (100, 400, pytest.approx(8))
    assert Rates.of(0.3, chains).overall == rate
    assert Rates.of(0.3, chains[:50]).overall.effective == 1
    # one decision a chain: these are independent draws from the question's chains, and the interval is exact
    assert Rates.of(0.3, chains[::50]).overall.interval() == exact_interval(2, 8)


def runs(number, questions, chains, turns, p, correlation):
    """Decisions of runs whose questions have rates of their own: beta-binomial, with such a correlation in a question.

    Chains end early at random, so later turns have fewer; `correlation` is that of any two chunks of a question.
    """
    rng = np.random.default_rng([questions, round(100 * p), round(100 * correlation)])
    spread = 1 / correlation - 1 if correlation else 0
    for _ in range(number):
        rates = rng.beta(p * spread, (1 - p) * spread, questions) if correlation else [p] * questions
        lengths = rng.integers(1, turns + 1, (questions, chains))
        yield [
            Decided(Place(q, s, turn), 0.0, bool(rng.random() < rates[q]))
            for q in range(questions) for s in range(chains) for turn in range(lengths[q, s])
        ]  # fmt: skip


RUNS = {20: 200, 100: 60}


@pytest.mark.parametrize("correlation", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("p", [0.05, 0.25])
@pytest.mark.parametrize("questions", RUNS)
def test_intervals_cover_the_rate_overall_and_by_turn(questions, p, correlation):
    """Of runs, 95% or nearly: refuted at the 1% level if fewer than 93% do. Binomial intervals would cover far less."""
    clustered, binomial, number = Counter(), Counter(), RUNS[questions]
    for decisions in runs(number, questions, 8, 3, p, correlation):
        found = Rates.of(p, decisions)
        for name, rate in (("all", found.overall), *found.by("turn").items()):
            low, high = rate.interval()
            clustered[name] += low <= p <= high
            low, high = exact_interval(*rate[:2])
            binomial[name] += low <= p <= high
    assert set(clustered) == {"all", 0, 1, 2}
    for covered in clustered.values():
        assert binomtest(covered, number, 0.93, alternative="less").pvalue > 0.01
    if correlation:
        assert binomtest(binomial["all"], number, 0.93, alternative="less").pvalue < 0.01
        assert binomial["all"] < 0.85 * number


def adversary(rng, control, places):
    """Decisions on p-values that are as low or as high as can be, a question and turn at a time, for a while."""
    sign, found = {}, []
    for place in places:
        push = sign.setdefault((place.question, place.turn), rng.random() < 0.5)
        took = (0.0 if push else 1.0) <= control.level(place)
        control.update(place, took)
        if rng.random() < 0.02:
            sign.clear()
        found.append(Decided(place, 0.0, took))
    return found


CONTROLS = {
    "one for all": (lambda alpha: Offsets(alpha, {(): 0.5}), {"all"}),
    "one a turn": (lambda alpha: Offsets(alpha, {"turn": 0.5}), {"all", "turn"}),
    "one a question": (lambda alpha: Offsets(alpha, {"question": 0.5}), {"all", "question"}),
    "decaying": (lambda alpha: Offsets(alpha, {"turn": 2.0}, decay=0.5), {"all", "turn"}),
    "capped": (lambda alpha: Offsets(alpha, {"question": 0.1, "turn": 0.1}, caps={"question": 2}), {"all", "question"}),
    "capped twice": (
        lambda alpha: Offsets(alpha, {"turn": 0.1, "question": 0.1}, caps={"question": 2, "turn": 2}), {"all", "turn"}
    ),
    "several": (lambda alpha: Offsets(alpha, {"question": 1.0, "turn": 1.0}), {"all", "question", "turn"}),
    "budget": (lambda alpha: TurnBudget(round(8 * alpha), 8), {"all", "question", "turn"}),
    "fixed": (Fixed, set()),
    "open budget": (lambda alpha: OpenBudget(round(8 * alpha), 8), set()),
    "decaying, several": (lambda alpha: Offsets(alpha, {"question": 1.0, "turn": 1.0}, decay=0.5), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_rates_are_within_their_bounds_whatever_the_scores(name, alpha):
    """And the bounds that a control has no reason to promise are not shown."""
    made, promised = CONTROLS[name]
    for seed in range(6):
        rng = random.Random(f"{name}/{seed}")
        chains = {(q, s): 0 for q in range(12) for s in range(8)}
        places = []
        while chains:
            question, sample = rng.choice(list(chains))
            places.append(Place(question, sample, turn := chains[question, sample]))
            chains[question, sample] += 1
            if turn == 5 or rng.random() < 0.05:
                del chains[question, sample]
        control = made(alpha)
        found = Rates.of(alpha, adversary(rng, control, places), control)
        shown = {"all": [found.overall], "turn": found.by("turn").values(), "question": found.by("question").values()}
        for rate in itertools.chain(*shown.values()):
            if rate.bound is not None:
                assert abs(rate.realised - alpha) <= rate.bound + 1e-9
                assert rate.bound < max(alpha, 1 - alpha)
        assert {kind for kind, rates in shown.items() if any(rate.bound is not None for rate in rates)} == promised


def test_a_bound_by_hand():
    places = [Place(q, 0, turn) for q in range(30) for turn in (0, 1)] + [Place(0, 1, 0)] * 10
    found = Rates.of(0.25, [Decided(place, 0.0, False) for place in places], Offsets(0.25, {"turn": 0.5}))
    assert found.by("turn")[0].bound == pytest.approx((0.75 + 0.5) / 0.5 / 40)
    assert found.by("turn")[1].bound == pytest.approx((0.75 + 0.5) / 0.5 / 30)
    assert found.overall.bound == pytest.approx(2 * (0.75 + 0.5) / 0.5 / 70)
    assert {rate.bound for rate in found.by("question").values()} == {None}
    assert found.by(lambda place: place.turn // 2)[0].bound == found.overall.bound
    few = Rates.of(0.25, [Decided(place, 0.0, False) for place in places[:2]], Offsets(0.25, {"turn": 0.5}))
    assert few.overall.bound is None  # no rate is so far off


def test_a_full_turn_of_a_budget_is_exact_and_draws_are_not_counted():
    def rate(places):
        return Rates.of(0.25, [Decided(place, 0.0, False) for place in places], TurnBudget(2, 8)).overall

    assert rate([Place("q", s, 0) for s in range(8)]).bound == 0
    assert rate([Place("q", s, 0) for s in range(6)]).bound == pytest.approx(0.25)  # 0 to 2 of 6
    assert rate([Place("q", s, 0) for s in range(7)]).bound == pytest.approx(0.75 / 7)  # 1 or 2 of 7
    again = [Place("q", s, 0) for s in range(8)] + [Place("q", 0, 0, attempt=1)]
    assert rate(again).bound is None
    many = [Place(q, s, 0) for q in range(9) for s in range(8)]
    assert rate([*many, *again]).bound == pytest.approx(9 * 0.75 / 81)


@pytest.mark.parametrize(
    ("scores", "taken", "alpha", "selectivity", "recall"),
    [
        ([1, 2, 3, 4], [0, 0, 0, 1], 0.25, 1.0, 1.0),
        ([1, 2, 3, 4], [1, 0, 0, 0], 0.25, 0.0, 0.0),
        ([1, 2, 3, 4], [0, 0, 1, 1], 0.25, 0.5, 1.0),
        ([1, 2, 3, 4], [0, 0, 0, 1], 0.5, 1.0, 0.5),
        ([1, 2, 3, 4], [0, 0, 0, 1], 0.3, 1.0, 0.5),  # ceil(1.2) = 2 are wanted
        ([1, 4, 4, 4], [0, 1, 0, 0], 0.25, 1 / 3, 1 / 3),  # hindsight takes one of three that are equal
        ([4, 4, 4, 4], [0, 1, 0, 1], 0.5, 0.5, 0.5),
        ([1, 4, 4, 9], [0, 1, 0, 1], 0.5, 0.75, 0.75),
        ([1, 2, 3, 4], [0, 0, 0, 0], 0.25, None, 0.0),
        ([1, 2, 3], [0, 0, 1], 0.25, None, None),  # too small a cell
        (list(range(25)), [0] * 18 + [1] * 7, 0.28, 1.0, 1.0),  # 0.28 * 25 is just above 7 as a float
    ],
)
def test_selectivity_by_hand(scores, taken, alpha, selectivity, recall):
    rates = Rates.of(alpha, cell(scores, taken))
    assert rates.selectivity() == selectivity
    assert rates.recall() == recall


@given(st.lists(decided, max_size=50), st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.9]), st.integers(1, 6))
def test_selectivity_is_that_of_brute_force(decisions, alpha, minimum):
    good = handed = wanted = 0
    for one in decisions:
        like = [d for d in decisions if (d.place.question, d.place.turn) == (one.place.question, one.place.turn)]
        if len(like) < minimum:
            continue
        k = next(k for k in range(len(like) + 1) if k >= alpha * len(like) - 1e-9)
        above, equal = (sum(test(d.score) for d in like) for test in (one.score.__lt__, one.score.__eq__))
        would = min(1, max(0, k - above) / equal)  # of all ways to break ties
        good += would * one.take_over
        handed += one.take_over
        wanted += would
    rates = Rates.of(alpha, decisions)
    assert rates.selectivity(minimum) == (pytest.approx(good / handed) if handed else None)
    assert rates.recall(minimum) == (pytest.approx(good / wanted) if wanted else None)


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_where_scores_are_equal_no_gate_is_selective(alpha):
    rng = random.Random(f"ties/{alpha}")
    decisions = []
    for question in range(500):
        decisions += cell([1.0] * 4, [rng.random() < alpha for _ in range(4)], question)
    assert Rates.of(alpha, decisions).selectivity() == pytest.approx(alpha)


@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_a_gate_at_random_has_a_selectivity_of_alpha(alpha):
    rng = random.Random(f"random/{alpha}")
    decisions = []
    for question in range(300):
        decisions += cell([rng.random() for _ in range(20)], [rng.random() < alpha for _ in range(20)], question)
    rates = Rates.of(alpha, decisions)
    handed = rates.overall.hits
    assert binomtest(round(rates.selectivity() * handed), handed, alpha).pvalue > 0.01


def test_a_level_or_an_alpha_that_is_none_is_refused():
    with pytest.raises(ValueError, match="strictly between 0 and 1, such as 0.95, and is not 95"):
        exact_interval(3, 10, 95)
    with pytest.raises(ValueError, match="alpha is the nominal take-over rate"):
        Rates.of(25, [])
    with pytest.raises(ValueError, match="explore is at least 1"):
        missed_at_most(3, 0.2, 0.05)
