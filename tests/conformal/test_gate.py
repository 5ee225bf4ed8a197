import random

import pytest
from scipy.stats import binomtest

from a1_sgl.conformal import AdaptiveGate, MarginalGate, ScoreBank


def decide(gate, scores):
    return [gate(s, question="q", sample=0, turn=i).take_over for i, s in enumerate(scores)]


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("ties", [False, True])
def test_online_from_an_empty_bank_holds_alpha(alpha, ties):
    rng = random.Random(f"{alpha}/{ties}")
    taken = decide(MarginalGate(alpha), [rng.randrange(5) if ties else rng.random() for _ in range(5000)])
    assert binomtest(sum(taken), len(taken), alpha).pvalue > 0.01


def test_a_fixed_bank_holds_alpha_over_banks():
    rng, alpha, hits = random.Random(4), 0.3, 0
    for number in range(3000):
        gate = MarginalGate(alpha, ScoreBank(rng.random() for _ in range(20)), online=False, seed=number)
        hits += gate(rng.random(), question="q", sample=0, turn=0).take_over
        assert len(gate.bank) == 20
    assert binomtest(hits, 3000, alpha).pvalue > 0.01


def test_stranger_chunks_are_taken_over():
    gate = MarginalGate(0.3, ScoreBank(i / 100 for i in range(100)), online=False)
    assert gate(0.99, question="q", sample=0, turn=0).take_over
    assert not gate(0.01, question="q", sample=0, turn=0).take_over


def test_the_draw_belongs_to_the_chunk_not_to_the_order():
    def p(order):
        gate = MarginalGate(0.3, ScoreBank([0.5] * 9), online=False, seed=3)
        return {name: gate(0.5, question=name, sample=1, turn=2).p_value for name in order}

    assert p("abc") == p("cab")
    assert len(set(p("abc").values())) == 3


def test_decision_says_what_it_was_made_of():
    gate = MarginalGate(0.3, ScoreBank([1.0, 2.0]))
    decision = gate(1.5, question="q", sample=0, turn=0)
    assert (decision.score, decision.alpha, decision.n) == (1.5, 0.3, 2)
    assert 1 / 3 <= decision.p_value <= 2 / 3
    assert decision.take_over == (decision.p_value <= 0.3)
    assert gate(1.5, question="q", sample=0, turn=1).n == 3


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.2, float("nan")])
def test_alpha_must_lie_strictly_inside(alpha):
    with pytest.raises(ValueError, match="alpha"):
        MarginalGate(alpha)


def test_too_small_a_bank_says_how_many_scores_are_needed():
    with pytest.raises(ValueError, match="at least 19"):
        MarginalGate(0.05, ScoreBank(range(18)), online=False, p_value="conservative")
    MarginalGate(0.05, ScoreBank(range(19)), online=False, p_value="conservative")
    with pytest.raises(ValueError, match="unknown p-value"):
        MarginalGate(0.05, p_value="exact")


def test_a_missing_score_is_an_error():
    with pytest.raises(ValueError, match="finite"):
        MarginalGate(0.3)(float("nan"), question="q", sample=0, turn=0)


def test_observe_rebuilds_an_online_bank_and_leaves_a_fixed_one():
    online, fixed = MarginalGate(0.3, ScoreBank([1.0])), MarginalGate(0.3, ScoreBank([1.0]), online=False)
    for gate in (online, fixed):
        gate.observe(2.0, True)
    assert (len(online.bank), len(fixed.bank)) == (2, 1)


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
        taken = sum(decide(AdaptiveGate(alpha, step=step), scores)) / n
        assert abs(taken - alpha) <= bound, name
    assert abs(sum(decide(MarginalGate(alpha), streams["rising"])) / n - alpha) > bound


def test_the_adaptive_gate_goes_on_where_it_stopped():
    rng = random.Random(2)
    scores = [rng.random() for _ in range(300)]
    whole = AdaptiveGate(0.3)
    decisions = [whole(s, question="q", sample=0, turn=i) for i, s in enumerate(scores)]
    resumed = AdaptiveGate(0.3)
    for score, decision in zip(scores[:200], decisions, strict=False):
        resumed.observe(score, decision.take_over)
    again = [resumed(s, question="q", sample=0, turn=200 + i) for i, s in enumerate(scores[200:])]
    assert again == decisions[200:]
    assert again[0].alpha != 0.3
    with pytest.raises(ValueError, match="step"):
        AdaptiveGate(0.3, step=0)
