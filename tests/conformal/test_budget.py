import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from a1_sgl.conformal import OpenBudget, Place, TurnBudget, open_budget, turn_budget, worst

sizes = st.integers(2, 9).flatmap(lambda m: st.tuples(st.integers(1, m - 1), st.just(m)))


def step(control, p, place):
    took = p <= control.level(place)
    control.update(place, took)
    return took


@given(sizes, st.data())
def test_a_turn_budget_is_used_up_and_never_passed(size, data):
    budget, chains = size
    control = TurnBudget(budget, chains)
    order = data.draw(st.permutations([(q, s, t) for q in "ab" for s in range(chains) for t in range(2)]))
    handed = dict.fromkeys([(q, t) for q in "ab" for t in range(2)], 0)
    for question, sample, turn in order:
        p = data.draw(st.sampled_from([0.0, 1.0, 0.3, 0.7]))
        handed[question, turn] += step(control, p, Place(question, sample, turn))
        assert handed[question, turn] <= budget
    assert set(handed.values()) == {budget}
    assert control.level(Place("a", 0, 2)) == budget / chains


def test_chains_that_never_come_leave_their_part_unused():
    control = TurnBudget(2, 6)
    assert not any(step(control, 1.0, Place("q", sample, 0)) for sample in range(4))
    assert control.level(Place("q", 4, 0)) == 1.0


def test_more_chains_than_it_was_made_for_are_refused():
    """They would never be handed over, and the rate would not be the one that was asked for."""
    control = TurnBudget(1, 2)
    for sample in range(2):
        step(control, 1.0, Place("q", sample, 0))
    before = control.state()
    with pytest.raises(
        ValueError, match="a budget of 1 for 2 chains a question, and chain 2 is one more in turn 0 of 'q'"
    ):
        control.level(Place("q", 2, 0))
    assert control.state() == before
    assert control.level(Place("q", 2, 1)) == 0.5  # in another turn it comes first


@pytest.mark.parametrize(("budget", "chains"), [(1, 4), (2, 5), (3, 4)])
def test_a_turn_budget_hands_over_evenly_on_uniform_p_values(budget, chains):
    rng, runs = random.Random(f"{budget}/{chains}"), 4000
    hits = [0] * chains
    for run in range(runs):
        control = TurnBudget(budget, chains)
        for k in range(chains):
            hits[k] += step(control, rng.random(), Place(run, k, 0))
    # The mean at every k is k * budget / chains just if each chunk's own chance is budget / chains.
    assert min(binomtest(h, runs, budget / chains).pvalue for h in hits) > 0.01 / chains
    assert sum(hits) == runs * budget


@given(sizes, st.lists(st.tuples(st.floats(-9, 9), st.sampled_from("ab")), max_size=60))
def test_the_turn_budget_gate_keeps_its_word_whatever_the_scores(size, stream):
    budget, chains = size
    gate, seen, handed = turn_budget(budget, chains), {}, {}
    for score, question in stream:
        i = seen.get(question, 0)
        seen[question] = i + 1
        cell = (question, i // chains)
        took = gate(score, question=question, sample=i % chains, turn=i // chains).take_over
        handed[cell] = handed.get(cell, 0) + took
        if i % chains == chains - 1:
            assert handed[cell] == budget
        assert handed[cell] <= budget


@given(sizes, st.data())
def test_a_turn_budget_counts_chains_however_often_they_draw(size, data):
    """Draws in any order, with any p-values, and also of chains that were kept; saved and loaded between any two."""
    budget, chains = size
    control = TurnBudget(budget, chains)
    first = [(q, s, t) for q in "ab" for s in range(chains) for t in range(2)]
    more = data.draw(st.lists(st.sampled_from(first), max_size=40))
    order = data.draw(st.permutations(first + more))
    handed = {(q, t): set() for q in "ab" for t in range(2)}
    attempts = Counter()
    for question, sample, turn in order:
        cell, place = handed[question, turn], Place(question, sample, turn, attempt=attempts[question, sample, turn])
        attempts[question, sample, turn] += 1
        if place.attempt:
            assert control.level(place) == (budget / chains if sample in cell else -1)
        took = step(control, data.draw(st.sampled_from([0.0, 1.0, 0.3, 0.7])), place)
        assert not took or not place.attempt or sample in cell
        if took:
            cell.add(sample)
        assert len(cell) <= budget
        loaded = TurnBudget(budget, chains)
        loaded.restore(json.loads(json.dumps(control.state())))
        assert loaded.state() == control.state()
        control = loaded
    assert {len(cell) for cell in handed.values()} == {budget}


@pytest.mark.parametrize(("budget", "chains", "retries"), [(1, 4, 3), (2, 5, 2), (3, 4, 4)])
def test_every_draw_of_a_turn_budget_is_rejected_at_its_rate(budget, chains, retries):
    """Uniform p-values; chains draw while they are rejected, in random order; 1% level, by chain and by attempt."""
    rng, runs = random.Random(f"{budget}/{chains}/{retries}"), 3000
    first, later = [0] * chains, [[0, 0] for _ in range(retries)]
    for run in range(runs):
        control, drawing, handed = TurnBudget(budget, chains), dict.fromkeys(range(chains), 0), set()
        while drawing:
            sample = rng.choice(list(drawing))
            attempt = drawing[sample]
            took = step(control, rng.random(), Place(run, sample, 0, attempt=attempt))
            if attempt:
                later[attempt - 1][0] += took
                later[attempt - 1][1] += 1
            else:
                first[sample] += took
            if took:
                handed.add(sample)
            drawing[sample] += 1
            if not took or drawing[sample] > retries:
                del drawing[sample]
        assert len(handed) == budget
    rate, checks = budget / chains, chains + retries
    assert min(binomtest(hits, runs, rate).pvalue for hits in first) > 0.01 / checks
    assert min(binomtest(hits, n, rate).pvalue for hits, n in later) > 0.01 / checks


@given(sizes, st.lists(st.tuples(st.floats(-9, 9), st.sampled_from("ab"), st.integers(0, 9)), max_size=60))
def test_the_turn_budget_gate_keeps_its_word_with_redraws(size, stream):
    budget, chains = size
    gate, attempts, handed = turn_budget(budget, chains), Counter(), {"a": set(), "b": set()}
    for score, question, number in stream:
        sample = number % chains
        attempt = attempts[question, sample]
        attempts[question, sample] += 1
        if gate(score, question=question, sample=sample, turn=0, attempt=attempt).take_over:
            handed[question].add(sample)
        assert all(len(samples) <= budget for samples in handed.values())


@given(
    sizes,
    st.lists(st.tuples(st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from("ab"), st.integers(0, 8), st.booleans())),
)
def test_an_open_budget_counts_the_chains_with_the_target(size, moves):
    budget, chains = size
    control, busy = OpenBudget(budget, chains), {"a": set(), "b": set()}
    for turn, (p, question, sample, ends) in enumerate(moves):
        busy[question].discard(sample)
        free = len(busy[question]) < budget
        took = step(control, p, Place(question, sample, turn))
        assert took == (free and p <= budget / chains)
        if took:
            busy[question].add(sample)
        if ends:
            control.finish(question, sample)
            busy[question].discard(sample)
        assert all(control.busy(q) == len(busy[q]) <= budget for q in "ab")
    for question in "ab":
        for sample in range(9):
            control.finish(question, sample)
    assert control.state() == []


def test_an_open_budget_spends_at_most_its_rate_on_uniform_p_values():
    rng, budget, chains, turns = random.Random(6), 2, 6, 30
    control, hits, n = OpenBudget(budget, chains), 0, 0
    for question in range(100):
        left = dict.fromkeys(range(chains), turns)
        while left:
            sample = rng.choice(list(left))
            hits += step(control, rng.random(), Place(question, sample, turns - left[sample]))
            n += 1
            left[sample] -= 1
            if not left[sample]:
                del left[sample]
                control.finish(question, sample)
    assert binomtest(hits, n, budget / chains, alternative="greater").pvalue > 0.01
    assert hits > n * budget / chains / 2


def test_the_open_budget_gate_gives_a_place_back_when_a_chain_ends():
    gate = open_budget(1, 2, seed=1)
    for i in range(50):
        gate.calibrate(i / 100, question="q")
    assert gate(9.0, question="q", sample=0, turn=0).take_over
    assert gate(9.5, question="q", sample=1, turn=0).alpha == -1
    gate.finish("q", 0)
    assert gate(9.9, question="q", sample=1, turn=1).alpha == 0.5


def test_a_chain_that_draws_again_keeps_its_place_in_an_open_budget():
    control = OpenBudget(1, 4)
    for attempt in range(3):
        assert step(control, 0.2, Place("q", 0, 0, attempt=attempt))
        assert not step(control, 0.0, Place("q", 1, 0, attempt=attempt))
        assert control.busy("q") == 1
    assert not step(control, 0.9, Place("q", 0, 0, attempt=3))
    assert step(control, 0.2, Place("q", 1, 0, attempt=3))


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]) | st.floats(-3, 3), max_size=9), st.integers(0, 10))
def test_the_worst_are_the_highest_and_ties_go_to_the_earlier(scores, budget):
    for i, chosen in enumerate(worst(scores, budget)):
        before = sum(s > scores[i] or (s == scores[i] and j < i) for j, s in enumerate(scores))
        assert chosen == (before < budget)


def test_the_worst_by_hand():
    assert worst([1.0, 3.0, 2.0, 3.0], 1) == [False, True, False, False]
    assert worst([1.0, 1.0], 5) == [True, True]
    assert worst([], 2) == []
    with pytest.raises(ValueError, match="not -1"):
        worst([1.0], -1)


@pytest.mark.parametrize("kind", [TurnBudget, OpenBudget, turn_budget, open_budget])
@pytest.mark.parametrize(("budget", "chains"), [(0, 4), (4, 4), (-1, 4), (1, 1)])
def test_a_budget_that_is_none_is_named(kind, budget, chains):
    with pytest.raises(ValueError, match=f"{chains}, not {budget}|between 0 and 1"):
        kind(budget, chains)
