"""The audited control: its bound holds for the worst stream, its estimate of false accepts is covered as promised."""

import itertools
import json
import math
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, binomtest

from a1_sgl.conformal import Audited, AuditedGate, GuardedGate, Place, false_accepts, make

PLACE = Place("q", 0, 0)
rates = st.sampled_from([0.05, 0.1, 0.5, 1.0])
# An adversary picks p-values, which of the accepted chunks are drawn, what audits say, and how late they say it.
moves = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 1.0]) | st.floats(0, 1), st.booleans(), st.booleans(),
        st.sampled_from([0, 0, 1, 5, 99]),
    ),
    max_size=150,
)  # fmt: skip


class Play:
    """Decisions under a control whose audits are answered late; what came of them."""

    def __init__(self, control):
        self.control, self.n, self.wrong, self.most, self.due = control, 0, 0, 0, []

    def decide(self, p, drawn, wrong, delay):
        took = p <= self.control.level(PLACE)
        self.control.update(PLACE, took)
        self.n += 1
        if drawn and not took:
            self.due.append([delay, wrong])
            self.most = max(self.most, len(self.due))
        self.answer(lambda one: one[0] <= 0)
        for one in self.due:
            one[0] -= 1

    def answer(self, which):
        for one in [one for one in self.due if which(one)]:
            self.due.remove(one)
            self.wrong += one[1]
            self.control.audited(one[1])

    @property
    def mean(self):
        return self.wrong / (self.control.rate * self.n)


def kept(play):
    """Whether what is promised holds."""
    control = play.control
    assert 0 <= control.level(PLACE) < 1 + max(1, play.most) * control.rise + 1e-9
    return play.mean <= control.most(play.n, max(1, play.most)) + 1e-9


def test_the_level_by_hand():
    control = Audited(0.3, 0.05, 0.5, rise=0.2)
    assert control.step == pytest.approx(0.1)
    assert control.level(PLACE) == 0.3
    control.update(PLACE, True)
    assert control.level(Place("r", 3, 7)) == pytest.approx(0.3 - 0.1 * 0.05)
    control.audited(False)
    assert control.level(PLACE) == pytest.approx(0.295)
    control.audited(True)
    assert control.level(PLACE) == pytest.approx(0.495)  # 0.3 + step (1 / rate - epsilon)
    for _ in range(200):
        control.update(PLACE, False)
    assert control.level(PLACE) == 0
    assert control.most(1000) == pytest.approx(0.05 + (1 + 0.1 / 0.5) / (0.1 * 1000))
    assert control.most(1000, 7) == pytest.approx(0.05 + (1 + 7 * 0.1 / 0.5) / (0.1 * 1000))


@given(st.sampled_from([0.01, 0.1, 0.5]), rates, st.sampled_from([0.02, 0.1, 0.7, 2.0]), moves, st.randoms())
def test_the_bound_holds_whatever_comes(epsilon, rate, rise, moves, order):
    play = Play(Audited(0.25, epsilon, rate, rise=rise))
    for move in moves:
        play.decide(*move)
        assert kept(play)
    while play.due:  # the answers that are left, in any order
        one = order.choice(play.due)
        play.answer(lambda other, one=one: other is one)
        assert kept(play) or not moves


@pytest.mark.parametrize("room", [1, 3, 12])
@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_the_bound_holds_over_long_streams_that_learn_from_the_level(rate, room):
    """An adversary that accepts wrong chunks while it can, and holds answers back until they hurt most."""
    for seed in range(6):
        rng, play = random.Random(f"{seed}/{rate}/{room}"), Play(Audited(0.25, 0.03, rate, rise=0.1))
        for _ in range(800):
            full = len(play.due) >= room
            play.decide(1.0 if rng.random() < 0.9 else 0.0, not full, True, math.inf)
            if full and play.control.level(PLACE) > rng.choice((0.2, 0.9, 0.99)):
                play.answer(lambda one: True)
            elif full and rng.random() < 0.3:
                play.answer(lambda one, rng=rng: rng.random() < 0.5)
            assert kept(play)


@pytest.mark.parametrize("room", [1, 10])
def test_the_bound_is_nearly_reached(room):
    """A bound far from what happens would show nothing: at the worst moment all audits come back wrong."""
    play, excess = Play(Audited(0.01, 0.01, 0.5, rise=0.1)), 0.0
    for _ in range(200):
        play.decide(1.0, len(play.due) < room, True, math.inf)
        if len(play.due) == room:
            last = play.control.level(PLACE) + play.control.rise >= 1
            play.answer(lambda one, last=last: last or one is play.due[0])
        assert kept(play)
        excess = max(excess, play.n * (play.mean - play.control.epsilon))
    assert excess >= 0.9 * (1 + room * play.control.rise) / play.control.step


def stream(rng, n, wrong=lambda i: 0.3, tell=2.0):
    """Scores and whether their chunks are wrong."""
    for i in range(n):
        bad = rng.random() < wrong(i)
        yield rng.gauss(tell * bad, 1), bad


def played(gate, chunks, rng, late):
    """Decisions, with audits answered up to `late` decisions later: (wrong and accepted, audited), one each."""
    due, found = [], []
    for i, (score, bad) in enumerate(chunks):
        place = {"question": f"q{i % 40}", "sample": i // 40, "turn": 0}
        for _, wrong, at in [one for one in due if one[0] <= i]:
            gate.audited(wrong, **at)
        due = [one for one in due if one[0] > i]
        decision = gate(score, **place)
        if decision.audit:
            due.append((i + rng.randrange(late), bad, place))
        found.append((bad and not decision.take_over, decision.audit))
    for _, wrong, at in due:
        gate.audited(wrong, **at)
    return found


@pytest.mark.parametrize("wrong", [0.05, 0.4])
def test_the_rate_of_false_accepts_is_held_where_rates_of_take_overs_differ(wrong):
    rng = random.Random(wrong)
    gate = make("audited", 0.25, epsilon=0.04, audit_rate=0.2, seed=5)
    found = played(gate, stream(rng, 12_000, lambda i: wrong), rng, 30)
    accepted = sum(bad for bad, _ in found) / len(found)
    assert 0.03 <= accepted <= 0.045 or (wrong == 0.05 and accepted <= 0.045)
    assert gate.audits.most(12_000, 30) < 0.065


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_accepted_chunks_are_drawn_at_the_rate_apart_from_the_smoothing_draw(rate):
    gate = AuditedGate(0.3, 0.05, rate, seed=8)
    drawn = []
    for i in range(4000):
        place = {"question": f"q{i}", "sample": i % 7, "turn": i % 3, "attempt": i % 2}
        decision = gate(0.0, **place)  # every score is the same, so that p is the smoothing draw
        assert not (decision.take_over and decision.audit)
        if not decision.take_over:
            drawn.append((decision.audit, decision.p_value > 0.65))
    assert binomtest(sum(audit for audit, _ in drawn), len(drawn), rate).pvalue > 0.01
    high = [audit for audit, above in drawn if above]
    assert binomtest(sum(high), len(high), rate).pvalue > 0.01
    place = Place("q", 1, 2)
    assert len({gate.draw(place), gate.draw(place, "audit"), gate.draw(place._replace(attempt=1), "audit")}) == 3
    again = AuditedGate(0.9, 0.2, rate, seed=8)
    assert (
        again.draw(place, "audit") == gate.draw(place, "audit") != AuditedGate(0.9, 0.2, 1, seed=9).draw(place, "audit")
    )


# --- how many false accepts there are -------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "accepts", "rate"), [(0, 20, 0.1), (3, 60, 0.1), (7, 30, 0.5), (40, 500, 0.05)])
def test_the_bet_is_what_it_is_said_to_be(wrong, accepts, rate):
    from a1_sgl.conformal.auditing import _log_wealth

    def ratio(q):
        return math.exp(wrong * math.log(q / rate) + (accepts - wrong) * math.log((1 - q) / (1 - rate)))

    assert math.exp(_log_wealth(wrong, accepts, rate)) == pytest.approx(quad(ratio, 1e-12, rate)[0] / rate, rel=1e-6)


def test_the_bet_is_a_martingale():
    """The next false accept is drawn with probability `rate`: the wealth is what it is on average."""
    from a1_sgl.conformal.auditing import _log_wealth

    for rate, accepts in itertools.product((0.1, 0.4), (0, 1, 9, 40)):
        for wrong in range(accepts + 1):
            now = math.exp(_log_wealth(wrong, accepts, rate))
            drawn, not_drawn = (math.exp(_log_wealth(wrong + one, accepts + 1, rate)) for one in (1, 0))
            assert rate * drawn + (1 - rate) * not_drawn == pytest.approx(now, rel=1e-9)
    assert math.exp(_log_wealth(0, 0, 0.1)) == pytest.approx(1)


@pytest.mark.parametrize(("rate", "delta"), [(0.1, 0.05), (0.1, 0.2), (0.5, 0.1)])
def test_a_bound_holds_at_all_times_at_once_as_often_as_is_said(rate, delta):
    """Whoever may stop whenever the bound is broken breaks it in at most delta of all runs, and not in far fewer."""
    rng, runs, length = random.Random(f"{rate}/{delta}"), 2000, 400
    bounds = [false_accepts(wrong, rate, delta) for wrong in range(length + 1)]
    broken = 0
    for _ in range(runs):
        wrong = 0
        for accepts in range(1, length + 1):
            wrong += rng.random() < rate
            if accepts > bounds[wrong]:
                broken += 1
                break
    assert binom.sf(broken - 1, runs, delta) > 0.01
    assert broken > 0.2 * delta * runs


def test_the_bound_holds_as_the_gate_uses_it():
    """The level reacts to what audits find, answers are late, and chunks become harder."""
    delta, rate, runs, broken, ratios = 0.1, 0.3, 300, 0, []
    for number in range(runs):
        rng = random.Random(number)
        gate = AuditedGate(0.25, 0.05, rate, seed=number)
        found = played(gate, stream(rng, 300, lambda i: 0.1 if i < 150 else 0.5), rng, 20)
        true, wrong = sum(bad for bad, _ in found), sum(bad and audit for bad, audit in found)
        bound = false_accepts(wrong, rate, delta)
        broken += true > bound
        ratios.append(wrong / rate - true)
    assert binom.sf(broken - 1, runs, delta) > 0.01
    assert abs(fmean(ratios)) < 4 * math.sqrt(fmean(one**2 for one in ratios) / runs)  # g is unbiased


def test_bounds_are_monotone_and_exact_at_the_ends():
    for rate in (0.05, 0.3, 0.9):
        bounds = [false_accepts(wrong, rate) for wrong in range(40)]
        assert bounds == sorted(set(bounds))
        assert all(bound >= wrong / rate for wrong, bound in enumerate(bounds))
        assert false_accepts(3, rate, 0.01) > false_accepts(3, rate, 0.2)
    assert false_accepts(17, 1.0) == 17
    assert false_accepts(30, 0.1) == 480
    assert false_accepts(100_000, 0.1) < 1.02e6


# --- the gate -------------------------------------------------------------------------------------------------


def test_a_gate_that_was_saved_or_is_told_again_goes_on_alike():
    rng = random.Random(3)
    gate = make("audited", 0.25, epsilon=0.05, audit_rate=0.5, seed=2)
    again, loaded = (make("audited", 0.25, epsilon=0.05, audit_rate=0.5, seed=2) for _ in range(2))
    for i in range(300):
        place = {"question": "q", "sample": i, "turn": 0}
        score = rng.random()
        decision = gate(score, **place)
        again.observe(score, decision.take_over, **place)
        if decision.audit:
            wrong = rng.random() < 0.4
            gate.audited(wrong, **place)
            again.audited(wrong, **place)
    loaded(0.5, question="r", sample=0, turn=0)
    loaded.restore(json.loads(json.dumps(gate.state())))
    assert gate.state() == again.state() == loaded.state()
    assert gate(0.4, question="s", sample=0, turn=1) == again(0.4, question="s", sample=0, turn=1)


def test_an_audit_that_is_not_due_is_refused_and_changes_nothing():
    gate, drawn, others = make("audited", 0.25, epsilon=0.05, audit_rate=0.5), [], []
    gate.begin("q")
    for i in range(40):
        (drawn if gate(0.5, question="q", sample=i, turn=0).audit else others).append(i)
    assert drawn
    assert others
    for sample in (others[0], 77):  # accepted or handed over and not drawn, and never decided
        before = gate.state()
        with pytest.raises(ValueError, match="no audit of .* is due: it was not drawn"):
            gate.audited(True, question="q", sample=sample, turn=0)
        assert gate.state() == before
    gate.audited(True, question="q", sample=drawn[0], turn=0)
    with pytest.raises(ValueError, match="or is answered"):
        gate.audited(True, question="q", sample=drawn[0], turn=0)
    again = make("audited", 0.25, epsilon=0.05, audit_rate=0.5)
    again.restore(json.loads(json.dumps(gate.state())))
    again.audited(False, question="q", sample=drawn[1], turn=0)
    gate.end("q")
    assert gate.state()["due"] == []


def test_gates_that_ask_for_no_audits_hear_of_none():
    gate = make("adaptive-turn", 0.25)
    before = gate.state()
    assert not any(gate(0.1 * i, question="q", sample=i, turn=0).audit for i in range(50))
    before = gate.state()
    gate.audited(True, question="q", sample=0, turn=0)
    assert gate.state() == before


def test_a_guard_passes_audits_on_and_audits_nothing_that_it_hands_over():
    inner = make("audited", 0.25, epsilon=0.05, audit_rate=1.0)
    guard = GuardedGate(inner, threshold=1.001, action="hand-over")
    level = inner.audits.level(PLACE)
    due = next(i for i in range(50) if guard(0.0, question="q", sample=i, turn=0).audit)
    guard.audited(True, question="q", sample=due, turn=0)
    assert inner.audits.level(PLACE) == pytest.approx(level + 0.1, abs=0.01)
    decisions = []
    for i in range(60):
        guard.begin(i)
        decisions.append(guard(float(i), question=i, sample=0, turn=0))
        guard.end(i)
    assert guard.alarms
    handed = [decision for decision in decisions if decision.alpha == 1.0]
    assert handed
    assert not any(decision.audit for decision in decisions if decision.take_over)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((0.0, 0.1, 0.1), "between 0 and 1, not 0.0"),
        ((0.3, 0.0, 0.1), "epsilon, false accepts per decision, .* not 0.0"),
        ((0.3, 1.0, 0.1), "not 1.0"),
        ((0.3, 0.1, 0.0), r"in \(0, 1\], not 0.0"),
        ((0.3, 0.1, 1.1), r"in \(0, 1\], not 1.1"),
    ],
)
def test_settings_that_cannot_be_are_named(arguments, what):
    with pytest.raises(ValueError, match=what):
        Audited(*arguments)
    with pytest.raises(ValueError, match=what):
        AuditedGate(*arguments)


def test_other_values_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="rise must be positive"):
        Audited(0.3, 0.1, 0.1, rise=0.0)
    with pytest.raises(ValueError, match="gate audited needs epsilon"):
        make("audited", 0.3)
    with pytest.raises(ValueError, match="gate marginal asks for no audits"):
        make("marginal", 0.3, epsilon=0.1)
    with pytest.raises(ValueError, match="gate balanced asks for no audits"):
        make("balanced", 0.3, audit_rate=0.1)
    for wrong in ((-1, 0.1, 0.1), (1, 0.0, 0.1), (1, 0.1, 1.0)):
        with pytest.raises(ValueError, match="not a count"):
            false_accepts(*wrong)
