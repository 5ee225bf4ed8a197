"""Threads at once leave banks and gates as some order one by one would have."""

import random
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a1_sgl.conformal import (
    BUDGETS,
    Gate,
    GuardedGate,
    MondrianBank,
    Offsets,
    Place,
    Rank,
    ScoreBank,
    ShrunkBank,
    make,
)
from a1_sgl.conformal.alarm import LEARN

THREADS = 8


def in_order():
    """A bank that remembers the order in which scores joined."""
    return ScoreBank(window=10**6)


# Every one has `in_order` at its root, so that the order in which threads got through can be replayed.
BANKS = {
    "plain": in_order,
    "mondrian": lambda: MondrianBank("turn", in_order(), minimum=5),
    "shrunk": lambda: ShrunkBank("question", in_order()),
    "mondrian-mondrian": lambda: MondrianBank("question", MondrianBank("turn", in_order(), minimum=3), minimum=9),
    "shrunk-shrunk": lambda: ShrunkBank(("question", "turn"), ShrunkBank("question", in_order()), weight=2),
    "shrunk-mondrian": lambda: ShrunkBank("question", MondrianBank("turn", in_order(), minimum=3)),
}
every_bank = pytest.mark.parametrize("make_bank", BANKS.values(), ids=BANKS)


@pytest.fixture(autouse=True)
def _eager_threads():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(work, shares):
    """Each share's items in a thread of its own, all let go together; the outcomes, share by share."""
    barrier = threading.Barrier(len(shares))

    def run(share):
        barrier.wait()
        return [work(item) for item in share]

    with ThreadPoolExecutor(len(shares)) as pool:
        return [outcome for share in pool.map(run, shares) for outcome in share]


def chunks(seed, number):
    """Chunks with distinct scores, and distinct places, so that a score tells the chunk."""
    rng = random.Random(seed)
    scores = rng.sample(range(10 * number), number)
    return [(float(s), Place(rng.choice("ab"), i, rng.randrange(3))) for i, s in enumerate(scores)]


def dealt(items, threads=THREADS):
    return [items[i::threads] for i in range(threads)]


def root(bank):
    while hasattr(bank, "parent"):
        bank = bank.parent
    return bank


@every_bank
@pytest.mark.parametrize("seed", range(4))
def test_ranks_are_those_of_the_order_in_which_threads_got_through(make_bank, seed):
    items, bank = chunks(seed, 400), make_bank()
    ranks = at_once(lambda item: (item[0], bank.rank(*item, add=True)), dealt(items))
    order, place = root(bank).state(), dict(items)
    assert Counter(order) == Counter(score for score, _ in items)
    again = make_bank()
    assert {score: again.rank(score, place[score], add=True) for score in order} == dict(ranks)
    assert again.state() == bank.state()


@every_bank
@settings(max_examples=15)
@given(shares=st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=30), min_size=2, max_size=6))
def test_any_shares_of_ranked_and_added_scores_leave_the_same_scores(make_bank, shares):
    """Ties too, and scores that are put in without a rank."""
    bank, alone = make_bank(), make_bank()

    def work(item):
        ranked, value = item
        place = Place("ab"[value % 2], 0, value % 3)
        if ranked:
            return bank.rank(value / 2, place, add=True)
        return bank.add(value / 2, place)

    outcomes = at_once(work, shares)
    for share in shares:
        for _, value in share:
            alone.add(value / 2, Place("ab"[value % 2], 0, value % 3))
    assert multisets(bank.state()) == multisets(alone.state())
    assert all(0 <= r.low < r.high <= 1 for r in outcomes if isinstance(r, Rank))
    assert len(bank) == sum(map(len, shares))


def multisets(state):
    """A bank's scores by level, whatever their order."""
    if isinstance(state, dict):
        categories = {str(category): multisets(own) for category, own in state["categories"] if own}
        return multisets(state["parent"]), categories
    return sorted(state)


def test_every_size_of_a_bank_is_seen_once_and_p_values_are_its_own():
    gate, items = Gate(0.3, in_order()), chunks(9, 4000)
    decisions = at_once(
        lambda item: gate(item[0], question=item[1].question, sample=item[1].sample, turn=item[1].turn),
        dealt(items, 16),
    )
    assert sorted(d.n for d in decisions) == list(range(4000))
    seen, place = ScoreBank(), dict(items)
    for d in sorted(decisions, key=lambda d: d.n):
        low, high, n = seen.rank(d.score, add=True)
        assert low <= d.p_value <= high
        assert (d.p_value, d.n) == (Rank(low, high, n).smoothed(gate.draw(place[d.score])), n)
    assert gate.bank.state() == [d.score for d in sorted(decisions, key=lambda d: d.n)]


CONTROLS = {
    "offsets": lambda: Offsets(0.3, {"question": 0.3, "turn": 0.1}, caps={"question": 2}),
    "decay": lambda: Offsets(0.3, {(): 0.4}, decay=0.6),
    **{name: lambda name=name: make(name, 0.25, chains=800).control for name in BUDGETS},
}


@every_bank
@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_a_decision_is_one_step(make_bank, control):
    """Rank, level and note of the outcome together: replaying in the order of the bank gives every decision again."""
    items = chunks(5, 320)
    place = dict(items)

    def decide(gate, score):
        return gate(score, **place[score]._asdict())

    gate, again = (Gate(0.3, make_bank(), control()) for _ in range(2))
    decisions = at_once(lambda score: decide(gate, score), dealt(list(place)))
    replayed = [decide(again, score) for score in root(gate.bank).state()]
    assert sorted(replayed) == sorted(decisions)
    assert again.state() == gate.state()


def test_a_guard_watches_every_question_once_and_in_order():
    """The same wealth, to the last bit, as where one question comes after the other."""

    def asked(gate, number):
        for turn in range(4):
            gate(random.Random(f"{number} {turn}").random(), question=number, sample=0, turn=turn)
        gate.end(number)

    wealth = []
    for together in (True, False):
        gate = GuardedGate(make("marginal", 0.3, online=False), threshold=1e300)
        for number in range(400):
            gate.begin(number)
        if together:
            at_once(lambda number, gate=gate: asked(gate, number), dealt(list(range(400))))
        else:
            for number in range(400):
                asked(gate, number)
        assert (gate.watched, gate.state()["order"]) == (400 - LEARN, [])
        wealth.append(gate.log_wealth)
    assert wealth[0] == wealth[1]


def test_a_guard_alarms_once_however_many_threads_see_it():
    gate = GuardedGate(make("marginal", 0.3), threshold=3, action="hand-over")

    def asked(number):
        gate.begin(number)
        gate(float(number[1]), question=number, sample=0, turn=0)
        gate.end(number)

    at_once(asked, [[(thread, i) for i in range(100)] for thread in range(THREADS)])
    assert len(gate.alarms) == 1


def test_saving_while_others_decide_gives_a_state_that_was():
    """Of one moment: every level of the bank holds the same scores, and the control has noted as many."""
    gate = make("balanced", 0.3)
    items = chunks(7, 600)

    def work(item):
        if item is None:
            return gate.state()
        return gate(item[0], question=item[1].question, sample=item[1].sample, turn=item[1].turn)

    states = [s for s in at_once(work, [*dealt(items), [None] * 40]) if isinstance(s, dict)]
    assert len(states) == 40
    for state in states:
        inner = state["bank"]["parent"]
        held = sorted(inner["parent"])
        assert sorted(s for _, own in inner["categories"] for s in own) == held
        assert sorted(s for _, own in state["bank"]["categories"] for s in own) == held
        assert all(sum(n for _, n, _, _ in family) == len(held) for family in state["control"])
