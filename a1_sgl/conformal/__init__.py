"""Conformal gating: scores, banks, p-values, gates, drift alarms, risk control and calibration cards.

Needs numpy, scipy and sortedcontainers, and knows nothing of SGLang. A gate is a bank, which ranks a score, and a
control, which sets the level that its p-value is compared with.
"""

from a1_sgl.conformal.alarm import Alarm, GuardedGate
from a1_sgl.conformal.auditing import Audited, AuditedGate, false_accepts
from a1_sgl.conformal.bank import Bank, MondrianBank, ScoreBank, ShrunkBank
from a1_sgl.conformal.budget import OpenBudget, TurnBudget, worst
from a1_sgl.conformal.card import Card
from a1_sgl.conformal.certificate import Certificate, Standing
from a1_sgl.conformal.control import Bound, Control, Fixed, Offsets
from a1_sgl.conformal.gate import UNSEEN, Decider, Decision, Frozen, Gate
from a1_sgl.conformal.gates import (
    AUDIT_RATE,
    AUDITED,
    BUDGETS,
    DEFAULT,
    FROZEN,
    GATES,
    KNOWN,
    RECOMMENDED,
    adaptive,
    adaptive_turn,
    audited,
    balanced,
    decaying_turn,
    frozen,
    make,
    marginal,
    mondrian_question,
    mondrian_turn,
    open_budget,
    presampled,
    turn_budget,
    window,
)
from a1_sgl.conformal.martingale import MARTINGALES, Martingale, SimpleJumper, SleeperStayer
from a1_sgl.conformal.place import Place
from a1_sgl.conformal.pvalues import Rank, conservative, scores_needed, smoothed
from a1_sgl.conformal.rates import Decided, Rate, Rates, exact_interval
from a1_sgl.conformal.risk import Trial, log_wealth, questions_needed, regressions
from a1_sgl.conformal.scores import SCORES, Evidence, Score, find_score, score
from a1_sgl.conformal.stages import Screening, TwoStage, missed_at_most

__all__ = [
    "AUDITED",
    "AUDIT_RATE",
    "BUDGETS",
    "DEFAULT",
    "FROZEN",
    "GATES",
    "KNOWN",
    "MARTINGALES",
    "RECOMMENDED",
    "SCORES",
    "UNSEEN",
    "Alarm",
    "Audited",
    "AuditedGate",
    "Bank",
    "Bound",
    "Card",
    "Certificate",
    "Control",
    "Decided",
    "Decider",
    "Decision",
    "Evidence",
    "Fixed",
    "Frozen",
    "Gate",
    "GuardedGate",
    "Martingale",
    "MondrianBank",
    "Offsets",
    "OpenBudget",
    "Place",
    "Rank",
    "Rate",
    "Rates",
    "Score",
    "ScoreBank",
    "Screening",
    "ShrunkBank",
    "SimpleJumper",
    "SleeperStayer",
    "Standing",
    "Trial",
    "TurnBudget",
    "TwoStage",
    "adaptive",
    "adaptive_turn",
    "audited",
    "balanced",
    "conservative",
    "decaying_turn",
    "exact_interval",
    "false_accepts",
    "find_score",
    "frozen",
    "log_wealth",
    "make",
    "marginal",
    "missed_at_most",
    "mondrian_question",
    "mondrian_turn",
    "open_budget",
    "presampled",
    "questions_needed",
    "regressions",
    "score",
    "scores_needed",
    "smoothed",
    "turn_budget",
    "window",
    "worst",
]
