"""A gate and its alarm over scores of one's own, without a model: python examples/gate.py"""

import random

from a1_sgl.conformal import GuardedGate, adaptive_turn

rng = random.Random(0)
gate = GuardedGate(adaptive_turn(alpha=0.2), threshold=100)
handed_over = decisions = 0
for question in range(200):
    hard = 2.0 if question >= 120 else 0.0  # something changes: from here on every score is higher
    gate.begin(question)  # the alarm watches questions that are begun and ended, and frees what it kept of them
    for sample in range(4):
        for turn in range(3):
            decision = gate(rng.gauss(turn + hard, 1), question=question, sample=sample, turn=turn)
            handed_over += decision.take_over
            decisions += 1
        gate.finish(question, sample)
    gate.end(question)

print(f"{handed_over} of {decisions} handed over, {handed_over / decisions:.1%} for an alpha of {gate.alpha:.0%}")
for alarm in gate.alarms:
    print(f"drift: alarm at question {alarm.question}, wealth {alarm.wealth:.0f}")
