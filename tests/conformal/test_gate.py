import json
import random

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from a1_sgl.conformal import (
    AUDITED,
    BUDGETS,
    GATES,
    RECOMMENDED,
    Gate,
    GuardedGate,
    MondrianBank,
    Offsets,
    OpenBudget,
    Place,
    ScoreBank,
    ShrunkBank,
    SimpleJumper,
    SleeperStayer,
    make,
    marginal,
    open_budget,
    scores_needed,
    turn_budget,
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [numpy.float16, numpy.float32, numpy.float64])
def test_a_score_of_any_kind_of_float_is_a_score(kind):
    gate = marginal(0.25)
    assert gate(kind(0.5), question="q", sample=0, turn=0).score == 0.5
    with pytest.raises(ValueError, match="a score must be a finite number"):
        gate(kind("-inf"), question="q", sample=0, turn=1)


def filled(name):
    gate = make(name, 0.25, seed=3)
    if name == "frozen":  # the one that does not begin with nothing
        gate.calibrate(0.5, question="a")
    return gate


EVERY = {name: lambda name=name: filled(name) for name in GATES}
EVERY |= {name: lambda name=name: make(name, 0.25, chains=4, seed=3) for name in BUDGETS}
EVERY[AUDITED] = lambda: make(AUDITED, 0.25, epsilon=0.3, audit_rate=0.5, seed=3)


def guarded(action, martingale=SimpleJumper):
    return GuardedGate(make("balanced", 0.25), martingale, threshold=1.05, action=action)


GUARDED = {
    "guarded-warn": lambda: guarded("warn"),
    "guarded-recalibrate": lambda: guarded("recalibrate", lambda: SleeperStayer(wake=0.2)),
    "guarded-hand-over": lambda: guarded("hand-over"),
}
events = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-5, 5),
        st.sampled_from("ab"),
        st.integers(0, 3),
        st.integers(0, 2),
        st.sampled_from([0, 0, 0, 1, 2]),
        st.booleans(),
    ),
    max_size=70,
)


def decide(gate, scores):
    return [gate(s, question="q", sample=0, turn=i).take_over for i, s in enumerate(scores)]


def play(gate, events):
    """Decisions; where the last of an event is true its chain ends. A guard's questions have one chunk each."""
    decisions = []
    for score, question, sample, turn, attempt, ends in events:
        if isinstance(gate, GuardedGate):
            gate.begin(question)
        decisions.append(gate(score, question=question, sample=sample, turn=turn, task="t", attempt=attempt))
        if ends:
            gate.finish(question, sample)
        if isinstance(gate, GuardedGate):
            gate.end(question)
    return decisions


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("ties", [False, True])
def test_online_from_an_empty_bank_holds_alpha(alpha, ties):
    rng = random.Random(f"{alpha}/{ties}")
    taken = decide(marginal(alpha), [rng.randrange(5) if ties else rng.random() for _ in range(5000)])
    assert binomtest(sum(taken), len(taken), alpha).pvalue > 0.01


def test_a_fixed_bank_holds_alpha_over_banks():
    rng, alpha, hits = random.Random(4), 0.3, 0
    for number in range(3000):
        gate = Gate(alpha, ScoreBank(rng.random() for _ in range(20)), online=False, seed=number)
        hits += gate(rng.random(), question="q", sample=0, turn=0).take_over
        assert len(gate.bank) == 20
    assert binomtest(hits, 3000, alpha).pvalue > 0.01


def test_stranger_chunks_are_taken_over():
    gate = Gate(0.3, ScoreBank(i / 100 for i in range(100)), online=False)
    assert gate(0.99, question="q", sample=0, turn=0).take_over
    assert not gate(0.01, question="q", sample=0, turn=0).take_over


def test_the_draw_belongs_to_the_chunk_not_to_the_order():
    def p(order):
        gate = Gate(0.3, ScoreBank([0.5] * 9), online=False, seed=3)
        return {name: gate(0.5, question=name, sample=1, turn=2).p_value for name in order}

    assert p("abc") == p("cab")
    assert len(set(p("abc").values())) == 3


def test_every_part_of_the_name_and_the_seed_make_the_draw():
    place = Place("q", 0, 0, "t")
    others = [place._replace(**{name: value}) for name, value in zip(place._fields, ("r", 1, 1, "s", 1), strict=True)]
    draws = [marginal(0.3).draw(p) for p in (place, *others)] + [marginal(0.3, seed=1).draw(place)]
    assert len(set(draws)) == 7
    assert all(0 <= u <= 1 for u in draws)
    assert marginal(0.3).draw(place) == make("balanced", 0.6).draw(place)


@pytest.mark.parametrize(
    ("place", "draw"),
    [
        (Place("q", 0, 0, "t"), 0.1656070692722802),
        (Place("q", 2, 1), 0.6027521314388603),
        (Place(5, 1, 14, "chain"), 0.6851176971646189),
    ],
)
def test_first_draws_are_those_of_every_recorded_run(place, draw):
    assert marginal(0.3, seed=3).draw(place) == draw


@pytest.mark.parametrize("made", [lambda: Gate(0.3, ScoreBank([0.5] * 9), online=False), lambda: make("random", 0.3)])
def test_every_attempt_has_a_draw_of_its_own_whatever_the_order(made):
    def p(order):
        gate = made()
        return {k: gate(0.5, question="q", sample=1, turn=2, attempt=k).p_value for k in order}

    assert p(range(5)) == p((3, 1, 4, 0, 2))
    assert len(set(p(range(5)).values())) == 5
    assert p([0])[0] == made()(0.5, question="q", sample=1, turn=2).p_value


def test_decision_says_what_it_was_made_of():
    gate = Gate(0.3, ScoreBank([1.0, 2.0]))
    decision = gate(1.5, question="q", sample=0, turn=0)
    assert (decision.score, decision.alpha, decision.n) == (1.5, 0.3, 2)
    assert 1 / 3 <= decision.p_value <= 2 / 3
    assert decision.take_over == (decision.p_value <= 0.3)
    assert gate(1.5, question="q", sample=0, turn=1).n == 3


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.2, float("nan")])
@pytest.mark.parametrize("name", GATES)
def test_alpha_must_lie_strictly_inside(name, alpha):
    with pytest.raises(ValueError, match=f"alpha .* not {alpha}"):
        make(name, alpha)
    with pytest.raises(ValueError, match=f"alpha .* not {alpha}"):
        GATES[name](alpha)


def test_too_small_a_bank_says_how_many_scores_are_needed():
    with pytest.raises(ValueError, match="alpha 0.05 needs at least 19 .* there are 18"):
        Gate(0.05, ScoreBank(range(18)), online=False, p_value="conservative")
    Gate(0.05, ScoreBank(range(19)), online=False, p_value="conservative")
    with pytest.raises(ValueError, match="unknown p-value 'exact'; known: smoothed, conservative"):
        Gate(0.05, p_value="exact")


def test_the_conservative_p_value_takes_no_draw():
    ps = {
        Gate(0.3, ScoreBank([0.5] * 9), online=False, p_value="conservative", seed=seed)(
            0.5, question="q", sample=0, turn=0
        ).p_value
        for seed in range(5)
    }
    assert ps == {1.0}


@pytest.mark.parametrize("made", [*EVERY.values(), *GUARDED.values()], ids=[*EVERY, *GUARDED])
def test_a_missing_score_is_an_error_and_changes_no_decision(made):
    gate, untouched = made(), made()
    events = [(i % 7 / 3, "ab"[i % 2], i % 4, i % 3, i % 5 // 4, False) for i in range(60)]
    play(gate, events)
    play(untouched, events)
    before = json.dumps(gate.state())
    for bad in (float("nan"), float("inf"), 10**400):
        with pytest.raises(ValueError, match="finite"):
            gate(bad, question="a", sample=0, turn=0, task="t")
        if made is not EVERY["presampled"]:  # a fixed bank is not rebuilt from what was decided
            with pytest.raises(ValueError, match="finite"):
                gate.observe(bad, True, question="a", sample=0, turn=0, task="t")
        with pytest.raises(ValueError, match="finite"):
            gate.calibrate(bad, question="a", sample=0, turn=0, task="t")
    assert json.dumps(gate.state()) == before
    assert play(gate, events) == play(untouched, events)


@pytest.mark.parametrize("made", [*EVERY.values(), *GUARDED.values()], ids=[*EVERY, *GUARDED])
@pytest.mark.parametrize("field", ["question", "sample", "turn", "task", "attempt"])
def test_a_chunk_without_a_name_is_refused_before_anything_changes(made, field):
    gate = made()
    play(gate, [(i % 7 / 3, "ab"[i % 2], i % 4, i % 3, i % 5 // 4, False) for i in range(60)])
    before = json.dumps(gate.state())
    name = {"question": "a", "sample": 0, "turn": 0, "task": "t", "attempt": 0, field: ["a"]}
    for call in (gate, gate.calibrate, lambda score, **name: gate.observe(score, True, **name)):
        with pytest.raises(ValueError, match=r"must be hashable, .*\['a'\]"):
            call(0.5, **name)
    assert json.dumps(gate.state()) == before


def broken(place):
    if place.question == "bad":
        raise RuntimeError("no such question")
    return place.turn


def unhashable(place):
    return [place.turn] if place.question == "bad" else place.turn


@pytest.mark.parametrize("key", [broken, unhashable])
@pytest.mark.parametrize(
    "parts",
    [
        lambda key: (MondrianBank(key, minimum=2), None),
        lambda key: (MondrianBank("turn", MondrianBank(key), minimum=2), None),
        lambda key: (MondrianBank("turn", ShrunkBank("question", MondrianBank(key)), minimum=2), None),
        lambda key: (ShrunkBank(key, MondrianBank("turn")), None),
        lambda key: (ShrunkBank("turn", ShrunkBank(key)), OpenBudget(1, 3)),
        lambda key: (None, Offsets(0.3, {"turn": 0.1, "question": 0.1, key: 0.1})),
    ],
)
@pytest.mark.parametrize("wrap", [lambda gate: gate, GuardedGate])
def test_a_category_that_fails_leaves_the_gate_as_it_was(key, parts, wrap):
    """Whichever part of the gate asks for it, and whatever was asked before."""
    bank, control = parts(key)
    gate = wrap(Gate(0.3, bank, control, seed=1))
    play(gate, [(i % 7 / 3, "ab"[i % 2], i % 4, i % 3, 0, False) for i in range(60)])
    before = json.dumps(gate.state())
    name = {"question": "bad", "sample": 0, "turn": 1}
    calls = [lambda: gate(0.5, **name), lambda: gate.observe(0.5, True, **name)]
    if bank is not None:
        calls.append(lambda: gate.calibrate(0.5, **name))
    for call in calls:
        with pytest.raises((RuntimeError, TypeError)):
            call()
    assert json.dumps(gate.state()) == before


@pytest.mark.parametrize("made", [*EVERY.values(), *GUARDED.values()], ids=[*EVERY, *GUARDED])
def test_a_state_that_cannot_be_leaves_the_gate_as_it_was(made):
    gate, other = made(), made()
    play(gate, [(i % 7 / 3, "ab"[i % 2], i % 4, i % 3, 0, False) for i in range(60)])
    play(other, [(i % 5 / 3, "cd"[i % 2], i % 4, i % 3, 0, False) for i in range(60)])
    before, refused = json.dumps(gate.state()), 0
    for path in paths(other.state()):
        state = json.loads(json.dumps(other.state()))
        parent = state
        for step in path[:-1]:
            parent = parent[step]
        parent[path[-1]] = {"no": "state"} if isinstance(parent[path[-1]], list) else [[]]
        try:
            gate.restore(state)
        except (ValueError, TypeError, KeyError, AttributeError):
            refused += 1
            assert json.dumps(gate.state()) == before
        else:
            gate.restore(json.loads(before))
    assert refused


def paths(state, depth=4):
    """The ways to what a state is made of, the first of each list."""
    if depth == 0 or not isinstance(state, dict | list):
        return
    for name in state if isinstance(state, dict) else range(min(1, len(state))):
        yield (name,)
        for path in paths(state[name], depth - 1):
            yield (name, *path)


def test_observe_rebuilds_an_online_bank_and_leaves_a_fixed_one():
    online, fixed = Gate(0.3, ScoreBank([1.0])), Gate(0.3, ScoreBank([1.0]), online=False)
    for gate in (online, fixed):
        gate.observe(2.0, True, question="q", sample=0, turn=0)
    assert (len(online.bank), len(fixed.bank)) == (2, 1)


def test_calibrating_fills_a_fixed_bank_and_moves_no_level():
    gate = Gate(0.3, MondrianBank("turn"), Offsets(0.3, {"turn": 0.5}), online=False)
    for i in range(30):
        gate.calibrate(i, question="q", turn=1)
    assert gate.bank.sizes() == {1: 30}
    assert gate(9.0, question="r", sample=0, turn=1)[2:4] == (0.3, 30)


@pytest.mark.parametrize("alpha", [0.1, 0.4])
def test_the_adaptive_gate_holds_the_rate_whatever_the_scores_do(alpha):
    """Scores that only ever rise, fall, or jump: every one of these would drive a marginal gate away from alpha."""
    rng, n, step = random.Random(1), 4000, 0.02
    bound = (max(alpha, 1 - alpha) + step) / (step * n)
    streams = {
        "rising": [i + rng.random() for i in range(n)],
        "falling": [-i + rng.random() for i in range(n)],
        "jumping": [rng.random() + 5 * (i > n / 2) for i in range(n)],
        "constant": [1.0] * n,
    }
    for name, scores in streams.items():
        taken = sum(decide(Gate(alpha, control=Offsets(alpha, {(): step})), scores)) / n
        assert abs(taken - alpha) <= bound, name
    assert abs(sum(decide(marginal(alpha), streams["rising"])) / n - alpha) > bound


@pytest.mark.parametrize("made", EVERY.values(), ids=EVERY)
def test_a_gate_that_observed_goes_on_where_the_other_stopped(made):
    rng = random.Random(2)
    events = [(rng.random(), rng.choice("ab"), rng.randrange(4), i // 40, i % 5 // 4, False) for i in range(300)]
    whole, resumed = made(), made()
    decisions = play(whole, events)
    for (score, *place, _), decision in zip(events[:200], decisions, strict=False):
        question, sample, turn, attempt = place
        resumed.observe(
            score, decision.take_over, question=question, sample=sample, turn=turn, task="t", attempt=attempt
        )
    assert play(resumed, events[200:]) == decisions[200:]


@pytest.mark.parametrize("made", [*EVERY.values(), *GUARDED.values()], ids=[*EVERY, *GUARDED])
@settings(max_examples=25)
@given(calibration=events, first=events, then=events)
def test_saved_and_loaded_a_gate_decides_as_it_would_have(made, calibration, first, then):
    gate, loaded = made(), made()
    for score, question, sample, turn, attempt, _ in calibration[:25]:
        gate.calibrate(score, question=question, sample=sample, turn=turn, task="t", attempt=attempt)
    play(gate, first)
    play(loaded, calibration)  # what it remembered before must not shine through
    saved = json.dumps(gate.state())
    decisions = play(gate, then)
    loaded.restore(json.loads(saved))
    assert json.dumps(loaded.state()) == saved
    assert play(loaded, then) == decisions
    assert json.dumps(loaded.state()) == json.dumps(gate.state())
    if isinstance(gate, GuardedGate):
        assert loaded.alarms == gate.alarms


def test_the_guarded_gates_of_these_tests_do_alarm():
    """Else saving and loading one would show little."""
    for made in GUARDED.values():
        gate = made()
        play(gate, [(float(i), "a", 0, 0, 0, False) for i in range(40)])
        assert gate.alarms


def test_named_gates_are_what_they_say():
    assert RECOMMENDED in GATES
    assert {name for name in GATES if not make(name, 0.3).online} == {"presampled", "frozen"}
    assert make("presampled", 0.3, online=True).online
    assert not make("marginal", 0.3, online=False).online
    assert make("balanced", 0.3, seed=8).seed == 8
    assert make("window", 0.3).bank.window == 1000
    budget = make("turn-budget", 0.75, chains=8)
    assert (budget.control.budget, budget.control.chains, budget.alpha) == (6, 8, 0.75)
    assert (turn_budget(1, 3).alpha, open_budget(2, 8).alpha) == (1 / 3, 0.25)
    assert make("turn-budget", turn_budget(1, 3).alpha, chains=3).control.budget == 1


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"name": "exact", "alpha": 0.3}, "unknown gate 'exact'; known: balanced, .*open-budget"),
        ({"name": "turn-budget", "alpha": 0.3}, "two chains or more, not None"),
        ({"name": "open-budget", "alpha": 0.5, "chains": 1}, "two chains or more, not 1"),
        ({"name": "turn-budget", "alpha": 0.3, "chains": 4}, "alpha 0.3 of 4 chains .*alpha 0.25 is a budget of 1"),
        ({"name": "turn-budget", "alpha": 0.01, "chains": 4}, "alpha 0.25 is a budget of 1"),
        ({"name": "turn-budget", "alpha": 0.99, "chains": 4}, "alpha 0.75 is a budget of 3"),
    ],
)
def test_a_gate_that_cannot_be_says_what_could(arguments, what):
    with pytest.raises(ValueError, match=what):
        make(**arguments)


@pytest.mark.parametrize("online", [True, False])
def test_observing_a_missing_score_is_an_error(online):
    gate = marginal(0.3, online=online)
    before = gate.state()
    with pytest.raises(ValueError, match="finite"):
        gate.observe(float("nan"), True, question="q", sample=0, turn=0)
    assert gate.state() == before


@pytest.mark.parametrize("made", EVERY.values(), ids=EVERY)
def test_what_a_question_left_goes_when_all_who_began_it_have_ended_it(made):
    gate, rng = made(), random.Random(5)

    def ask(question):
        for sample, turn in ((0, 0), (1, 0), (0, 1)):
            gate(rng.random(), question=question, sample=sample, turn=turn)

    def kept(question):
        return f'"{question}"' in json.dumps({k: v for k, v in gate.state().items() if k != "open"})

    gate.begin("a")
    gate.begin("a")
    ask("a")
    by_question = kept("a")
    gate.end("a")
    assert kept("a") == by_question
    gate.end("a")
    assert not kept("a")
    ask("b")  # nobody began it
    assert kept("b") == by_question
    gate.end("b")
    assert kept("b") == by_question
    assert gate.state()["open"] == []


@pytest.mark.parametrize("made", [made for name, made in EVERY.items() if name != "frozen"])
def test_what_a_gate_holds_grows_with_the_questions_that_are_open(made):
    """But for the scores, of which a bank keeps the last so many."""
    gate, sizes = made(), []
    gate.bank.clear()
    for number in range(400):
        gate.begin(number)
        for sample, turn in ((0, 0), (1, 0), (0, 1)):
            gate(random.Random(f"{number} {sample} {turn}").random(), question=number, sample=sample, turn=turn)
        gate.end(number)
        state = gate.state()
        gate.bank.clear()
        sizes.append(len(json.dumps(state["control"])) + len(json.dumps(gate.state()["bank"])))
    assert max(sizes[200:]) <= max(sizes[:200]) + 40  # offsets have more digits or fewer


def test_a_named_gate_keeps_so_many_scores_and_no_more(monkeypatch):
    import a1_sgl.conformal.bank
    import a1_sgl.conformal.gate
    import a1_sgl.conformal.gates

    for module in (a1_sgl.conformal.bank, a1_sgl.conformal.gate, a1_sgl.conformal.gates):
        monkeypatch.setattr(module, "KEPT", 50)
    for name in EVERY.keys() - {"window"}:
        gate = EVERY[name]()
        for number in range(300):
            gate.begin(number)
            gate(random.Random(number).random(), question=number, sample=0, turn=0)
            gate.end(number)
        assert len(gate.bank) <= 50, name
        assert json.dumps(gate.state()["bank"]).count("0.") <= 101, name  # of a turn's bank and its parent's


def test_a_bank_that_is_replaced_is_replaced_whole_or_not_at_all():
    gate = Gate(0.3, MondrianBank("turn"), online=False)
    gate.calibrate(0.5, question="q", turn=3)
    with pytest.raises(ValueError, match="finite"):
        gate.replace([(0.1, Place("q", 0, 0)), (float("nan"), Place("q", 0, 0))])
    assert gate.bank.sizes() == {3: 1}
    gate.replace([(0.1, Place("q", 0, 0)), (0.2, Place("q", 0, 1))])
    assert gate.bank.sizes() == {0: 1, 1: 1}


def test_a_conservative_gate_never_has_too_few_scores():
    """Not by its bank when made, nor by a state, nor by what replaces it: it would accept everything in silence."""

    def made(n):
        return Gate(0.1, ScoreBank(i / n for i in range(n)), p_value="conservative", online=False)

    gate, needed = made(20), scores_needed(0.1)
    assert needed == 9
    with pytest.raises(ValueError, match="needs at least 9 calibration scores; there are 8"):
        made(8)
    with pytest.raises(ValueError, match="there are 8"):
        gate.replace([(float(i), Place("q", 0, 0)) for i in range(8)])
    assert len(gate.bank) == 20
    with pytest.raises(ValueError, match="there are 0"):
        gate.restore({"bank": [], "control": None, "open": []})


def test_a_frozen_gate_learns_nothing():
    gate = make("frozen", 0.3, seed=3)
    with pytest.raises(ValueError, match="its bank is empty; fill it from a card"):
        gate(0.5, question="q", sample=0, turn=0)
    for i in range(9):
        gate.calibrate(i / 10, question="a", turn=i)
    before = gate.state()
    rng = random.Random(1)
    chunks = [(f"q{i // 6}", i % 3, i % 2, rng.random()) for i in range(60)]
    asked = [gate(score, question=q, sample=s, turn=t) for q, s, t, score in chunks]
    assert gate.state() == before
    # whatever came before, and in whatever order
    again = make("frozen", 0.3, seed=3)
    again.restore(before)
    again.observe(9.0, True, question="r", sample=0, turn=0)
    again.finish("q0", 0)
    backwards = [again(score, question=q, sample=s, turn=t) for q, s, t, score in chunks[::-1]]
    assert backwards[::-1] == asked
    assert {one.n for one in asked} == {9}
    assert {one.alpha for one in asked} == {0.3}
    with pytest.raises(ValueError, match="takes no more scores"):
        gate.calibrate(0.5, question="q")


def test_a_frozen_gate_is_closed_at_the_latest_by_its_first_decision():
    gate = make("frozen", 0.3)
    gate.calibrate(0.5, question="a")
    gate.close()
    with pytest.raises(ValueError, match="takes no more scores"):
        gate.calibrate(0.5, question="a")
    with pytest.raises(ValueError, match="takes no other scores"):
        gate.replace([(0.7, Place("a", 0, 0))])
    assert gate.bank.scores() == [0.5]
    with pytest.raises(ValueError, match="gate frozen never learns"):
        make("frozen", 0.3, online=True)
    assert not make("frozen", 0.3, online=False).online
