"""What cannot be beaten: closed formulas against a simulation, and costs against themselves."""

import random

import pytest

from a1_sgl.evals.speed.limits import Costs, chain_speed_up, saturated_speed_up


def simulated(draft, verify, alpha, take_over, lookahead, turns=200_000):
    """Chunks of the answer a unit of time, turn by turn."""
    drawn, clock, written = random.Random(0), 0.0, 0
    ahead = False  # whether the turn's draft was done while the last verification ran
    for _ in range(turns):
        handed = drawn.random() < alpha
        if not ahead:
            clock += draft
        clock += max(draft, verify) if lookahead and not handed else verify
        # What is left of an early draft is waited for within the turn that it runs beside.
        ahead = lookahead and not handed
        clock += 1.0 if handed else 0.0
        written += 2 if handed and take_over == "continue" else 1
    return written / clock


@pytest.mark.parametrize("take_over", ["replace", "continue"])
@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize(("draft", "verify", "alpha"), [(0.1, 0.05, 0.25), (0.3, 0.5, 0.4), (0.02, 0.4, 0.1)])
def test_a_chains_speed_up_is_what_its_turns_come_to(draft, verify, alpha, take_over, lookahead):
    formula = chain_speed_up(draft, verify, alpha, take_over, lookahead)
    assert simulated(draft, verify, alpha, take_over, lookahead) == pytest.approx(formula, rel=0.01)


def test_never_more_than_one_over_alpha():
    assert chain_speed_up(1e-9, 1e-9, 0.25) == pytest.approx(4.0)
    assert saturated_speed_up(0.25, 0.0) == 4.0
    assert saturated_speed_up(0.25, 0.25, "continue") == 2.5


def test_where_rho_and_alpha_make_one_nothing_is_gained():
    assert saturated_speed_up(0.4, 0.6) == pytest.approx(1.0)


@pytest.mark.parametrize("wrong", [(0, 1, 0.5), (1, 0, 0.5), (1, 1, -0.1), (1, 1, 1.1), (1, float("nan"), 0.5)])
def test_costs_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="costs must be positive"):
        chain_speed_up(*wrong)


def test_an_unknown_take_over_is_named():
    with pytest.raises(ValueError, match="'resample'; known: replace, continue"):
        chain_speed_up(1, 1, 0.5, "resample")


COSTS = Costs(draft=0.001, target=0.01, verify=0.002)


def test_the_busiest_runtime_bounds_a_run():
    assert COSTS.rho == pytest.approx(0.2)
    assert COSTS.bound(1000, 100, 1000) == pytest.approx(100 * 0.01 + 1000 * 0.002)
    assert COSTS.bound(10_000, 100, 1000) == pytest.approx(10.0)
    assert COSTS.bound(1000, 100, 1000, apart=True) == pytest.approx(2.0)


def test_where_one_chain_runs_its_requests_come_after_each_other():
    assert COSTS.serial(1000, 100, 1000) == pytest.approx(1 + 1 + 2)
    assert COSTS.serial(1000, 100, 1000, lookahead=True) == pytest.approx(1 + 2)


@pytest.mark.parametrize("lookahead", [False, True])
def test_the_bound_of_one_chain_is_the_formula_where_chunks_are_of_one_length(lookahead):
    turns, tokens, alpha, one = 1000, 64, 0.25, Costs(0.001, 0.01, 0.0004)
    handed = int(alpha * turns)
    took = one.serial(turns * tokens, handed * tokens, turns * tokens, lookahead=lookahead)
    formula = chain_speed_up(one.draft / one.target, one.rho, alpha, lookahead=lookahead)
    bound = turns * tokens * one.target / took
    # Ahead, the bound lets every verification hide behind a draft, and the formula only those that pass.
    assert bound == pytest.approx(formula) if not lookahead else bound >= formula
