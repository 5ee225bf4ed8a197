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


def test_where_rho_and_alpha_make_one_nothing_is_gained():
    assert saturated_speed_up(0.4, 0.6) == pytest.approx(1.0)


@pytest.mark.parametrize("wrong", [(0, 1, 0.5), (1, 0, 0.5), (1, 1, -0.1), (1, 1, 1.1), (1, float("nan"), 0.5)])
def test_costs_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="costs must be positive"):
        chain_speed_up(*wrong)


def test_an_unknown_take_over_is_named():
    with pytest.raises(ValueError, match="'resample'; known: replace, continue"):
        chain_speed_up(1, 1, 0.5, "resample")


def test_the_busier_runtime_bounds_a_run_and_all_of_it_where_one_chain_runs():
    costs = Costs(draft=0.001, target=0.01, verify=0.002)
    assert costs.rho == pytest.approx(0.2)
    assert costs.bound(1000, 100, 1000, 64) == pytest.approx(100 * 0.01 + 1000 * 0.002)
    assert costs.bound(10_000, 100, 1000, 64) == pytest.approx(10.0)
    assert costs.bound(1000, 100, 1000, 1) == pytest.approx(1 + 1 + 2)
