"""Conformal gating: scores, banks, p-values, gates, drift alarms, risk control and calibration cards.

Needs numpy, scipy and sortedcontainers, and knows nothing of SGLang. A gate is a bank, which ranks a score, and a
control, which sets the level that its p-value is compared with.
"""

from a1_sgl.conformal.alarm import Alarm, GuardedGate, every_chunk, first_chunks
from a1_sgl.conformal.audit import Audit, Decided, Rate, exact_interval
from a1_sgl.conformal.bank import Bank, Counts, MondrianBank, ScoreBank, ShrunkBank
from a1_sgl.conformal.budget import OpenBudget, TurnBudget, worst
from a1_sgl.conformal.card import Card
from a1_sgl.conformal.control import Control, Fixed, Offsets
from a1_sgl.conformal.gate import UNSEEN, Decider, Decision, Gate
from a1_sgl.conformal.gates import (
    BUDGETS,
    DEFAULT,
    GATES,
    RECOMMENDED,
    adaptive,
    adaptive_turn,
    balanced,
    decaying_turn,
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
from a1_sgl.conformal.risk import Certificate, Tested, binomial_p_value, certify, questions_needed, regressions
from a1_sgl.conformal.scores import SCORES, Evidence, Score, find_score, score
from a1_sgl.conformal.stages import Screening, TwoStage, missed_at_most

__all__ = [
    "BUDGETS",
    "DEFAULT",
    "GATES",
    "MARTINGALES",
    "RECOMMENDED",
    "SCORES",
    "UNSEEN",
    "Alarm",
    "Audit",
    "Bank",
    "Card",
    "Certificate",
    "Control",
    "Counts",
    "Decided",
    "Decider",
    "Decision",
    "Evidence",
    "Fixed",
    "Gate",
    "GuardedGate",
    "Martingale",
    "MondrianBank",
    "Offsets",
    "OpenBudget",
    "Place",
    "Rank",
    "Rate",
    "Score",
    "ScoreBank",
    "Screening",
    "ShrunkBank",
    "SimpleJumper",
    "SleeperStayer",
    "Tested",
    "TurnBudget",
    "TwoStage",
    "adaptive",
    "adaptive_turn",
    "balanced",
    "binomial_p_value",
    "certify",
    "conservative",
    "decaying_turn",
    "every_chunk",
    "exact_interval",
    "find_score",
    "first_chunks",
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
