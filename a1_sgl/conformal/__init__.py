"""Conformal gating: score banks, p-values and gates. Needs sortedcontainers alone, and knows nothing of SGLang."""

from a1_sgl.conformal.bank import Counts, ScoreBank
from a1_sgl.conformal.gate import GATES, AdaptiveGate, Decision, Gate, MarginalGate
from a1_sgl.conformal.pvalues import conservative, smoothed

__all__ = [
    "GATES",
    "AdaptiveGate",
    "Counts",
    "Decision",
    "Gate",
    "MarginalGate",
    "ScoreBank",
    "conservative",
    "smoothed",
]
