import logging
import math
import random

import pytest
from scipy.stats import binomtest

from a1_sgl.conformal import (
    GuardedGate,
    Place,
    SimpleJumper,
    SleeperStayer,
    every_chunk,
    first_chunks,
    marginal,
    mondrian_turn,
)


def ask(gate, score, number, sample=0, turn=0, attempt=0):
    return gate(score, question=f"q{number}", sample=sample, turn=turn, attempt=attempt)


def drifting(n=120, change=60, seed=1):
    rng = random.Random(seed)
    return [rng.random() + 2 * (i >= change) for i in range(n)]


def guarded(action, **options):
    return GuardedGate(marginal(0.3), threshold=20, action=action, **options)


def test_no_drift_no_alarm_and_the_gate_decides_as_without():
    gate, bare = guarded("hand-over"), marginal(0.3)
    scores = drifting(change=999)
    assert [ask(gate, s, i) for i, s in enumerate(scores)] == [ask(bare, s, i) for i, s in enumerate(scores)]
    assert gate.alarms == []
    assert (gate.watched, gate.alpha) == (120, 0.3)


def test_warn_logs_once_and_changes_no_decision(caplog):
    gate, bare = guarded("warn"), marginal(0.3)
    scores = drifting()
    with caplog.at_level(logging.WARNING):
        assert [ask(gate, s, i) for i, s in enumerate(scores)] == [ask(bare, s, i) for i, s in enumerate(scores)]
    assert len(gate.alarms) == len(caplog.records) == 1
    alarm = gate.alarms[0]
    assert 60 <= alarm.watched - 1 < 110
    assert alarm.place == Place(f"q{alarm.watched - 1}", 0, 0)
    assert alarm.wealth >= 20
    for part in (str(alarm.place.question), "20", "warn", str(alarm.watched)):
        assert part in caplog.text


def test_hand_over_gives_everything_to_the_target_from_the_alarm_on():
    gate, bare = guarded("hand-over"), marginal(0.3)
    scores = drifting()
    mine, plain = [[ask(g, s, i) for i, s in enumerate(scores)] for g in (gate, bare)]
    assert len(gate.alarms) == 1
    at = gate.alarms[0].watched - 1
    assert mine[:at] == plain[:at]
    assert all(d.take_over and d.alpha == 1 for d in mine[at:])
    assert [d.p_value for d in mine] == [d.p_value for d in plain]
    assert ask(gate, -9.0, 5, sample=1, turn=3).take_over  # unwatched ones too
    assert not all(d.take_over for d in plain[at:])


def test_recalibrate_starts_afresh():
    gate = guarded("recalibrate")
    for i, score in enumerate(drifting(300, 60)):
        alarms = len(gate.alarms)
        decision = ask(gate, score, i)
        if len(gate.alarms) > alarms:
            # The chunk that set it off is ranked in the emptied bank and is its first score.
            assert (decision.n, len(gate.gate.bank), len(gate.bank)) == (0, 1, 0)
            assert gate.martingale.log_wealth == 0
    assert len(gate.alarms) == 1
    assert gate.watched == 300


def test_recalibrate_can_alarm_again():
    gate = guarded("recalibrate")
    for i, score in enumerate(drifting(120, 60) + [s + 9 for s in drifting(120, 60)]):
        ask(gate, score, i)
    assert len(gate.alarms) >= 2


def test_by_default_the_first_chunk_of_the_first_chain_is_watched():
    gate, eager = guarded("warn"), guarded("warn", watch=every_chunk)
    for one in (gate, eager):
        for number in range(5):
            for sample in range(2):
                for turn in range(3):
                    ask(one, 0.5, number, sample, turn)
    assert (gate.watched, len(gate.bank), eager.watched) == (5, 5, 30)
    assert [p for p in ((0, 0), (0, 1), (1, 0)) if first_chunks(Place("q", *p))] == [(0, 0)]


def test_later_draws_of_the_first_chunk_are_not_watched():
    gate, eager, scores = guarded("warn"), guarded("warn", watch=every_chunk), (0.9, 0.7, 0.8)
    for one in (gate, eager):
        for attempt, score in enumerate(scores):
            ask(one, score, 0, attempt=attempt)
            one.observe(score, True, question="q1", sample=0, turn=0, attempt=attempt)
            one.calibrate(score, question="c", attempt=attempt)
    assert (gate.watched, gate.bank.scores()) == (2, [0.9] * 3)
    assert (eager.watched, len(eager.bank)) == (6, 9)
    assert len(gate.gate.bank) == len(eager.gate.bank) == 9


def test_calibration_says_what_is_normal():
    """Scores that are strange from the start are noticed only if calibration has shown other ones."""
    told, untold = guarded("warn", scores=[0.5]), guarded("warn")
    for i in range(100):
        told.calibrate(i / 100, question=f"c{i}")
        told.calibrate(i / 100, question=f"c{i}", turn=1)
    assert (len(told.bank), len(told.gate.bank)) == (101, 200)
    for i, score in enumerate(drifting(40, 0)):
        ask(told, score, i)
        ask(untold, score, i)
    assert told.alarms
    assert not untold.alarms


def test_observing_watches_as_deciding_does():
    scores, gate, resumed = drifting(), guarded("recalibrate"), guarded("recalibrate")
    decisions = [ask(gate, s, i) for i, s in enumerate(scores)]
    for i, (score, decision) in enumerate(zip(scores, decisions, strict=True)):
        resumed.observe(score, decision.take_over, question=f"q{i}", sample=0, turn=0)
    assert resumed.alarms == gate.alarms
    assert resumed.state() == gate.state()


def test_it_guards_any_gate_with_any_martingale():
    gate = GuardedGate(mondrian_turn(0.3), SleeperStayer(wake=0.02), threshold=20)
    for i, score in enumerate(drifting(200, 60)):
        ask(gate, score, i)
    assert len(gate.alarms) == 1
    assert gate.alarms[0].watched > 60


@pytest.mark.parametrize("threshold", [1, 0, -3, math.nan])
def test_a_threshold_must_be_above_one(threshold):
    with pytest.raises(ValueError, match=f"above 1, not {threshold}"):
        GuardedGate(marginal(0.3), threshold=threshold)


def test_an_unknown_action_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown action 'stop'; known: warn, recalibrate, hand-over"):
        GuardedGate(marginal(0.3), action="stop")


@pytest.mark.parametrize("action", ["warn", "recalibrate"])
def test_false_alarms_are_as_rare_as_promised(action):
    """Questions differ, and turns and chains of one question are alike: only its first chunk may be watched."""
    rng, runs, threshold = random.Random(31), 500, 5
    alarmed = 0
    for run in range(runs):
        gate = GuardedGate(marginal(0.3, seed=run), SimpleJumper(0.1), threshold=threshold, action=action)
        for number in range(80):
            level = rng.random()
            for sample, turn, attempt in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
                ask(gate, level + turn - attempt, number, sample, turn, attempt)
        alarmed += bool(gate.alarms)
    assert binomtest(alarmed, runs, 1 / threshold, alternative="greater").pvalue > 0.01
    assert alarmed > 0


def test_watching_every_chunk_alarms_with_no_drift():
    gate, rng = guarded("warn", watch=every_chunk), random.Random(32)
    for number in range(40):
        level = rng.random()
        for turn in range(30):
            ask(gate, level + 0.01 * rng.random(), number, 0, turn)
    assert gate.alarms
