"""What a bench compares, and its gate that does not look."""

import itertools

import pytest

from a1_sgl.errors import ConfigError
from a1_sgl.evals.speed.arms import ARMS, Bench, Clock, Clocked, Fixed, Paced
from a1_sgl.evals.tasks import find_task


def bench(**changes):
    return Bench(**{"task": find_task("stories"), "questions": 2, "chains": 4, "alpha": 0.25} | changes)


def decisions(gate, chains, turns):
    return [
        [gate(float(turn), question="q", sample=sample, turn=turn).take_over for turn in range(turns)]
        for sample in range(chains)
    ]


@pytest.mark.parametrize("alpha", [0.25, 0.4, 1 / 3, 0.05, 0.9])
def test_a_paced_gate_hands_over_exactly_alpha(alpha):
    gate = Paced(alpha)
    for chain in decisions(gate, 40, 60):
        for turns in range(1, 61):
            assert abs(sum(chain[:turns]) - alpha * turns) < 1
    by_turn = [sum(turn) / 400 for turn in zip(*decisions(Paced(alpha), 400, 20), strict=True)]
    assert all(abs(rate - alpha) < 0.02 for rate in by_turn)


def test_a_paced_gate_goes_on_after_a_resume_as_it_would_have():
    whole, half = Paced(0.3), Paced(0.3)
    first = decisions(whole, 5, 10)
    for sample, turn in itertools.product(range(5), range(4)):
        half.observe(0.0, first[sample][turn], question="q", sample=sample, turn=turn)
    again = [[half(0.0, question="q", sample=s, turn=t).take_over for t in range(4, 10)] for s in range(5)]
    assert again == [chain[4:] for chain in first]


def test_a_clocked_gate_decides_as_its_own_and_takes_the_time():
    clock = Clock()
    assert decisions(Clocked(Paced(0.4), clock), 3, 9) == decisions(Paced(0.4), 3, 9)
    assert clock.seconds > 0


@pytest.mark.parametrize("count", [2, 3, 6])
def test_every_arm_runs_once_a_round_and_no_place_is_always_the_same_ones(count):
    made = bench(arms=tuple(ARMS)[:count])
    orders = [made.order(round_) for round_ in range(2 * count)]
    assert all(sorted(order) == sorted(made.arms) for order in orders)
    for place in (0, -1):
        assert len({order[place] for order in orders}) > 1


def test_arms_have_the_same_lengths_sampling_and_questions():
    made = bench(fixed=Fixed(6, 32))
    plans = {arm: made.plan(arm) for arm in ARMS}
    assert plans["target"].arguments["max_tokens"] == 6 * 32 == plans["draft"].arguments["max_tokens"]
    for arm in ("a1", "a1_lookahead", "a1_sync", "reference"):
        own = plans[arm].arguments
        assert (own["turns"], own["draft_tokens"], own["target_tokens"]) == (6, 32, 32)
        assert own["take_over"] == "replace"
    assert plans["a1_sync"].arguments["budget"] == 1
    assert len({tuple(q.id for q in plan.asked) for plan in plans.values()}) == 1
    assert all(plan.sampling == plans["target"].sampling and plan.stop == [] for plan in plans.values())
    assert plans["target"].sampling["ignore_eos"] is True
    assert [arm for arm in ARMS if plans[arm].together] == ["a1_sync", "reference"]


def test_the_synchronous_way_is_among_them_where_it_can_hand_over_alpha():
    assert bench().arms == tuple(ARMS)
    assert "a1_sync" not in bench(chains=1).arms
    assert "a1_sync" not in bench(chains=4, alpha=0.3).arms
    assert bench(chains=10, alpha=0.3).plan("a1_sync").arguments["budget"] == 3


def test_what_is_measured_against():
    assert bench().base == "target"
    assert bench(arms=("reference", "a1")).base == "reference"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"arms": ("a1", "turbo")}, "unknown arm 'turbo'; known: target, draft"),
        ({"arms": ("a1", "a1")}, "an arm is named twice: a1, a1"),
        (
            {"arms": ("a1_sync",), "chains": 3},
            "a1_sync hands over a whole number of chains a turn, and alpha 0.25 of 3 is",
        ),
        ({"fixed": Fixed(2, 8), "take_over": "continue"}, "with fixed lengths a take-over replaces the chunk"),
        ({"temperature": -1.0}, "temperature must be at least 0, not -1"),
        ({"repeats": 0}, "repeats must be at least 1, not 0"),
        ({"take_over": "resample"}, "unknown take-over 'resample'"),
        ({"alpha": 1.0}, "alpha is the nominal take-over rate"),
        ({"questions": 0}, "questions must be at least 1, not 0"),
    ],
)
def test_a_wrong_bench_says_what_is_wrong(wrong, said):
    with pytest.raises(ConfigError, match=said):
        bench(**wrong)


@pytest.mark.parametrize("text", ["8", "8x", "x8", "ax8", "8x-1", "8x8x8", ""])
def test_lengths_that_cannot_be_read_are_refused(text):
    with pytest.raises(ConfigError, match="TURNSxTOKENS, such as 8x64, not"):
        Fixed.parse(text)


def test_lengths():
    assert Fixed.parse("8x64") == Fixed(8, 64)
    assert str(Fixed(8, 64)) == "8x64"
    with pytest.raises(ConfigError, match="at least 1 turn of 2 tokens, not 0 of 64"):
        Fixed(0, 64)
