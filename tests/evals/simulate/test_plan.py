"""Sweeps: what is simulated, what of it keeps up, and which is the cheapest."""

import random

import pytest

from a1_sgl.errors import ConfigError
from a1_sgl.evals.simulate.costs import Curves, Pair, Worker
from a1_sgl.evals.simulate.fleet import Arrivals
from a1_sgl.evals.simulate.load import Chain, Question, Record, Request, Turn
from a1_sgl.evals.simulate.plan import Plan, cheapest, sweep

PAIR = Pair(
    draft=Worker(costs=Curves(decode=((1, 0.1), (64, 0.4)), token=1e-3)),
    target=Worker(costs=Curves(decode=((1, 1.0), (64, 4.0)), token=0.01)),
)


@pytest.fixture(scope="module")
def record():
    """Twelve questions of four chains; a quarter of the chunks was handed over, the strangest ones."""
    drawn = random.Random(0)

    def chain():
        shares = [drawn.random() for _ in range(drawn.randint(2, 6))]
        return tuple(
            Turn(drawn.randint(20, 60), drawn.randint(20, 60), 1 - share, 40 if share <= 0.25 else None, share)
            for share in shares
        )

    prompt = (Request("draft", 10, 0), Request("target", 10, 0))
    turns = tuple(tuple(chain() for _ in range(4)) for _ in range(12))
    questions = tuple(Question(prompt, (Chain(()),) * 4) for _ in turns)
    return Record("r", questions, 1.0, (1.0,), (1.0,), {}, 64, 0.0, turns, replaces=True)


def test_every_combination_is_simulated_once(record):
    plan = Plan(("target", "draft", "a1"), (0.1, 0.3), (2, 4), (1, 2), (1, 3), questions=4)
    rows = list(sweep(record, PAIR, plan))
    cells = [(row.arm, row.alpha, row.chains, row.drafts, row.targets) for row in rows]
    assert len(set(cells)) == len(cells) == 2 * 2 + 2 * 2 + 2 * 2 * 2 * 2
    assert {(row.alpha, row.drafts) for row in rows if row.arm == "target"} == {(None, 0)}
    assert {(row.alpha, row.targets, row.target_tokens) for row in rows if row.arm == "draft"} == {(None, 0, 0.0)}


def test_what_alpha_more_hands_over_costs_target_tokens_and_time(record):
    rows = list(sweep(record, PAIR, Plan(("a1",), (0.1, 0.3, 0.6), questions=40)))
    assert [row.target_tokens for row in rows] == sorted(row.target_tokens for row in rows)
    assert [row.per_second for row in rows] == sorted((row.per_second for row in rows), reverse=True)


def test_chains_that_wait_for_each_other_wait(record):
    free, sync = sweep(record, PAIR, Plan(("a1", "a1_sync"), chains=(16,), questions=10))
    assert free.barrier == 0
    assert sync.barrier > 0.1
    assert sync.per_second < free.per_second


def test_a_budget_that_is_no_number_of_chains_is_refused(record):
    with pytest.raises(ConfigError, match="alpha 0.1 of 16 is none, 0.125 is 2"):
        list(sweep(record, PAIR, Plan(("a1_sync",), (0.1,), chains=(16,), questions=4)))


def test_more_targets_have_as_many_more_in_flight(record):
    one, four = sweep(record, PAIR, Plan(("target",), chains=(4,), targets=(1, 4), questions=80,
                                         arrivals=Arrivals(16)))  # fmt: skip
    assert four.per_second == pytest.approx(4 * one.per_second, rel=0.2)


def test_a_fleet_that_does_not_keep_up_meets_nothing(record):
    plan = Plan(("target",), targets=(1, 8), questions=200, arrivals=Arrivals(None, 0.05), within=1e9)
    slow, fast = rows = list(sweep(record, PAIR, plan))
    assert (slow.keeps_up, slow.meets, fast.keeps_up, fast.meets) == (False, False, True, True)
    assert cheapest(rows) == fast
    assert cheapest([slow]) is None


def test_the_cheapest_is_the_one_with_the_fewest_devices_that_is_in_time(record):
    plan = Plan(("target", "a1"), targets=(4, 8), questions=200, arrivals=Arrivals(None, 0.05), within=400)
    rows = list(sweep(record, PAIR, plan))
    met = [row for row in rows if row.meets]
    assert met
    assert cheapest(rows).device_s == min(row.device_s for row in met)


@pytest.mark.parametrize(("changes", "says"), [({"targets": ()}, "needs targets"), ({"within": 0.0}, "more than 0")])
def test_plans_that_cannot_be_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        Plan(**changes)
