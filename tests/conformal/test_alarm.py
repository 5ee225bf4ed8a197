import json
import logging
import math
import random

import pytest
from scipy.stats import binomtest

from a1_sgl.conformal import (
    Gate,
    GuardedGate,
    MondrianBank,
    Place,
    ScoreBank,
    SleeperStayer,
    make,
    marginal,
    mondrian_turn,
    scores_needed,
)
from a1_sgl.conformal.alarm import LEARN
from a1_sgl.evals.benchmarks.drift import SHIFTS, World


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR, "a1_sgl.conformal.alarm")


def ask(gate, score, number, sample=0, turn=0, attempt=0):
    """A question of one chunk, begun and ended."""
    gate.begin(f"q{number}")
    decision = gate(score, question=f"q{number}", sample=sample, turn=turn, attempt=attempt)
    gate.end(f"q{number}")
    return decision


def drifting(n=120, change=60, seed=1):
    rng = random.Random(seed)
    return [rng.random() + 2 * (i >= change) for i in range(n)]


def guarded(action, gate=None, **options):
    return GuardedGate(gate or marginal(0.3), threshold=20, action=action, **options)


def test_no_drift_no_alarm_and_the_gate_decides_as_without():
    gate, bare = guarded("hand-over"), marginal(0.3)
    scores = drifting(change=999)
    assert [ask(gate, s, i) for i, s in enumerate(scores)] == [ask(bare, s, i) for i, s in enumerate(scores)]
    assert gate.alarms == []
    assert (gate.watched, gate.alpha) == (120 - LEARN, 0.3)


def test_warn_logs_once_and_changes_no_decision(caplog):
    gate, bare = guarded("warn"), marginal(0.3)
    scores = drifting()
    with caplog.at_level(logging.WARNING, "a1_sgl.conformal.alarm"):
        assert [ask(gate, s, i) for i, s in enumerate(scores)] == [ask(bare, s, i) for i, s in enumerate(scores)]
    assert len(gate.alarms) == len(caplog.records) == 1
    alarm = gate.alarms[0]
    assert 60 <= alarm.watched + LEARN - 1 < 110
    assert alarm.question == f"q{alarm.watched + LEARN - 1}"
    assert alarm.wealth >= 20
    for part in (str(alarm.question), alarm.statistic, "20", "warn", str(alarm.watched)):
        assert part in caplog.text


def test_hand_over_gives_everything_to_the_target_after_the_alarm():
    gate, bare = guarded("hand-over"), marginal(0.3)
    scores = drifting()
    mine, plain = [[ask(g, s, i) for i, s in enumerate(scores)] for g in (gate, bare)]
    assert len(gate.alarms) == 1
    at = gate.alarms[0].watched + LEARN  # the question that set it off was decided before it was looked at
    assert mine[:at] == plain[:at]
    assert all(d.take_over and d.alpha == 1 for d in mine[at:])
    assert [d.p_value for d in mine] == [d.p_value for d in plain]
    assert ask(gate, -9.0, 500, sample=1, turn=3).take_over
    assert not all(d.take_over for d in plain[at:])


@pytest.mark.parametrize("online", [True, False])
def test_recalibrating_puts_the_last_questions_scores_into_the_bank(online):
    """Also where the bank does not learn: emptied, it would toss a coin for ever."""
    fixed = Gate(0.3, ScoreBank([0.1, 0.2]), online=online)
    gate, scores, at = guarded("recalibrate", fixed), drifting(300, 60), 999
    for i, score in enumerate(scores):
        ask(gate, score, i)
        if gate.alarms and at == 999:
            at = i
            assert gate.log_wealth < 0
        if i in (at, at + LEARN):
            assert fixed.bank.scores() == sorted(scores[i + 1 - LEARN : i + 1])
    assert len(gate.alarms) == 1
    assert len(fixed.bank) == LEARN + online * (299 - at - LEARN)


def test_recalibrating_keeps_nothing_of_questions_that_have_ended():
    bank = MondrianBank("question")
    gate = guarded("recalibrate", Gate(0.3, bank))
    for i, score in enumerate(drifting(300, 60)):
        ask(gate, score, i)
    assert gate.alarms
    assert bank.state()["categories"] == []
    assert bank.state()["parent"] != []


def test_a_gate_that_recalibrated_ranks_among_what_is_usual_now():
    gate = guarded("recalibrate", Gate(0.3, ScoreBank(drifting(60, 99)), online=False))
    decisions = [ask(gate, s, i) for i, s in enumerate(drifting(400, 60))]
    assert gate.alarms
    assert all(d.take_over for d in decisions[61 : gate.alarms[0].watched + LEARN])
    assert 0.15 < sum(d.take_over for d in decisions[200:]) / 200 < 0.45
    assert {d.n for d in decisions[200:]} == {LEARN}


def test_a_bank_too_small_for_its_p_value_hands_over_instead_of_accepting_in_silence():
    alpha = 0.03  # needs 33 scores; the last 20 questions have one each
    fixed = Gate(alpha, ScoreBank([i / 100 for i in range(100)]), online=False, p_value="conservative")
    gate = guarded("recalibrate", fixed)
    decisions = [ask(gate, s, i) for i, s in enumerate(drifting(200, 60))]
    assert scores_needed(alpha) > LEARN
    assert gate.alarms
    assert gate.handing_over
    at = gate.alarms[0].watched + LEARN
    assert all(d.take_over for d in decisions[at:])
    assert len(fixed.bank) == 100  # not emptied
    for i in range(LEARN + 1):  # questions of two chunks are enough
        gate.begin(f"more {i}")
        for turn in range(2):
            gate(2 + random.Random(f"{i} {turn}").random(), question=f"more {i}", sample=0, turn=turn)
        gate.end(f"more {i}")
    assert not gate.handing_over
    assert len(fixed.bank) >= scores_needed(alpha)


def test_recalibrate_can_alarm_again():
    gate = guarded("recalibrate")
    for i, score in enumerate(drifting(120, 60) + [s + 9 for s in drifting(120, 60)]):
        ask(gate, score, i)
    assert len(gate.alarms) >= 2


def test_a_question_is_looked_at_when_it_and_all_before_it_are_over():
    gate = guarded("warn")
    for i in range(LEARN):
        ask(gate, random.Random(i).random(), i)
    for name in "abc":
        gate.begin(name)
        gate(0.5, question=name, sample=0, turn=0)
    gate.begin("b")  # a second program asks it too
    for name, watched in (("c", 0), ("b", 0), ("a", 1), ("b", 3)):
        gate.end(name)
        assert gate.watched == watched
    gate.end("b")
    gate.end("unknown")
    assert gate.watched == 3


def test_the_order_of_arrival_has_no_part_in_it():
    """The same questions, their chunks in other orders: the same wealth."""
    wealth = []
    for order in range(3):
        gate, rng = GuardedGate(Gate(0.3, ScoreBank([0.5]), online=False)), random.Random(order)
        for name in range(60):
            gate.begin(name)
        chunks = [(q, c, t) for q in range(60) for c in range(3) for t in range(2)]
        rng.shuffle(chunks)
        chunks.sort(key=lambda chunk: chunk[2])
        for q, c, t in chunks:
            gate(random.Random(f"{q} {c} {t}").random(), question=q, sample=c, turn=t)
        for name in rng.sample(range(60), 60):
            gate.end(name)
        assert gate.watched == 60 - LEARN
        wealth.append(gate.log_wealth)
    assert wealth == pytest.approx([wealth[0]] * 3, rel=1e-12)


def test_questions_that_nobody_began_and_chunks_drawn_again_are_not_watched():
    gate, eager = guarded("warn"), guarded("warn")
    rng = random.Random(3)
    for i in range(40):
        score = rng.random()
        gate(9.0, question=f"stray {i}", sample=0, turn=0)
        for one in (gate, eager):
            one.begin(i)
            one(score, question=i, sample=0, turn=0)
            if one is eager:
                one(score + 5, question=i, sample=0, turn=0, attempt=1)
            one.end(i)
    assert gate.watched == eager.watched == 40 - LEARN
    assert gate.log_wealth == eager.log_wealth


def test_calibration_says_what_is_normal():
    """Scores that are strange from the start are noticed only if calibration has shown other ones."""
    told, untold = guarded("warn"), guarded("warn")
    for i in range(100):
        told.calibrate(i / 100, question=f"c{i}")
        told.calibrate(i / 100, question=f"c{i}", turn=1)
    for i, score in enumerate(drifting(60, 0)):
        ask(told, score, i)
        ask(untold, score, i)
    assert told.alarms
    assert not untold.alarms
    told.calibrate(0.5, question="q3")  # of a run under way: the gate's alone
    assert len(told.gate.bank) == 261


def test_as_many_chains_are_watched_as_the_card_has():
    wealth = []
    for chains in (2, 6):
        gate = guarded("warn", chains=2)
        for i in range(40):
            for sample in range(2):
                gate.calibrate(random.Random(f"c {i} {sample}").random(), question=f"c{i}", sample=sample)
        for i in range(40):
            gate.begin(i)
            for sample in range(chains):
                gate(random.Random(f"{i} {sample}").random(), question=i, sample=sample, turn=0)
            gate.end(i)
        wealth.append(gate.log_wealth)
    assert wealth[0] == wealth[1]


def test_observing_watches_as_deciding_does():
    scores, gate, resumed = drifting(), guarded("recalibrate"), guarded("recalibrate")
    decisions = [ask(gate, s, i) for i, s in enumerate(scores)]
    for i, (score, decision) in enumerate(zip(scores, decisions, strict=True)):
        resumed.begin(f"q{i}")
        resumed.observe(score, decision.take_over, question=f"q{i}", sample=0, turn=0)
        resumed.end(f"q{i}")
    assert resumed.alarms == gate.alarms
    assert resumed.state() == gate.state()


def test_a_state_in_the_middle_goes_on_as_it_would_have():
    def play(gate, numbers):
        for i in numbers:
            gate.begin(i)
            for sample in range(2):
                for turn in range(2):
                    gate(random.Random(f"{i} {sample} {turn}").random() + i // 60, question=i, sample=sample, turn=turn)
            if i >= 3:
                gate.end(i - 3)

    whole, loaded = guarded("recalibrate"), guarded("recalibrate")
    for gate in (whole, loaded):
        gate.calibrate(0.4, question="c", sample=1)
    for stop in (10, 45, 100):
        play(whole, range(0 if stop == 10 else (10 if stop == 45 else 45), stop))
        loaded.restore(json.loads(json.dumps(whole.state())))
        assert loaded.state() == whole.state()
    for gate in (whole, loaded):
        play(gate, range(100, 160))
    assert whole.alarms
    assert loaded.alarms == whole.alarms
    assert loaded.state() == whole.state()


def test_it_guards_any_gate_with_any_martingale():
    gate = GuardedGate(mondrian_turn(0.3), lambda: SleeperStayer(wake=0.02), threshold=20)
    for i, score in enumerate(drifting(200, 60)):
        ask(gate, score, i)
    assert len(gate.alarms) == 1
    assert gate.alarms[0].watched + LEARN > 60


@pytest.mark.parametrize("threshold", [1, 0, -3, math.nan])
def test_a_threshold_must_be_above_one(threshold):
    with pytest.raises(ValueError, match=f"above 1, not {threshold}"):
        GuardedGate(marginal(0.3), threshold=threshold)


def test_an_unknown_action_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown action 'stop'; known: warn, recalibrate, hand-over"):
        GuardedGate(marginal(0.3), action="stop")
    with pytest.raises(ValueError, match="chains must be at least 1, not 0"):
        GuardedGate(marginal(0.3), chains=0)


@pytest.mark.parametrize(
    ("world", "card"),
    [
        (World(60, chains=3, turns=2, lanes=16, correlation=0.9), 0),
        (World(60, chains=3, turns=2, lanes=64, correlation=0.5, redraws=2), 40),
        (World(60, chains=3, turns=2, lanes=1, correlation=0.5, gate="balanced"), 0),
    ],
    ids=["length and score", "redraws and a card", "balanced"],
)
def test_false_alarms_are_as_rare_as_promised(world, card):
    """Many chains in flight, short chunks first, a gate that learns, target chunks that change what comes after."""
    runs, threshold = 50, 5
    false = sum(bool(world.alarms(seed, card=card, threshold=threshold)) for seed in range(runs))
    assert binomtest(false, runs, 1 / threshold, alternative="greater").pvalue > 0.01


def test_the_simulated_alarm_can_be_false():
    """Else the test above would show little."""
    assert any(World(80, lanes=4).alarms(seed, threshold=1.5) for seed in range(20))


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_in_any_turn_or_chain_is_found(shift):
    alarms = World(160, turns=5, lanes=16).alarms(1, card=40, at=60, shift=lambda c, t: 3.0 * SHIFTS[shift](c, t))
    assert alarms[0].question >= 60


@pytest.mark.parametrize("name", ["balanced", "turn-budget"])
def test_ended_questions_leave_nothing_behind_in_a_guarded_gate(name):
    gate = GuardedGate(make(name, 0.25, chains=4))
    for i in range(50):
        gate.begin(i)
        for sample in range(4):
            gate(random.Random(f"{i} {sample}").random(), question=i, sample=sample, turn=0)
            gate.observe(0.5, False, question=i, sample=sample, turn=1)
        gate.end(i)
    state = json.dumps(gate.state()["gate"]["control"]) + json.dumps(gate.state()["order"])
    assert '"question"' not in state
    assert gate.state()["order"] == []
    assert len(gate.state()["recent"]) == LEARN
    assert Place(0, 0, 0)  # a name is all that a chunk has
