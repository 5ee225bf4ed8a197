"""The gates that have a name, each a bank and a control; what each promises is in ``docs/guarantees.md``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from a1_sgl.conformal.auditing import AuditedGate
from a1_sgl.conformal.bank import KEPT, MondrianBank, ScoreBank, ShrunkBank
from a1_sgl.conformal.budget import OpenBudget, TurnBudget
from a1_sgl.conformal.checks import whole
from a1_sgl.conformal.control import Control, Offsets, check_alpha
from a1_sgl.conformal.gate import Coin, Frozen, Gate
from a1_sgl.conformal.place import Category

DEFAULT = "adaptive-turn"
FROZEN = "frozen"
AUDITED = "audited"
AUDIT_RATE = 0.1
RECOMMENDED = "balanced"
"""For a rate that must hold by turn and by question. It is not the default of an eval: a rate held in every question
cannot be spent where it is needed, which costs accuracy (``docs/guarantees.md``, *What control by question costs*)."""


def balanced(alpha: float, *, online: bool = True, seed: int = 0) -> Gate:
    """Holds the rate per turn and per question at once, and still picks the strange chunks.

    A score is ranked among its question's scores of the same turn, its question's, and all, the nearer the heavier
    (`ShrunkBank`). Three adaptive offsets, of its question, its turn and all, add up to its level (`Offsets`). Their
    steps are proportional to ``alpha * (1 - alpha)`` (`_unit`), which makes a category's count of take-overs err by
    about as many chunks at every alpha: with a step of c times that, about ``sqrt(1 / (2 * c))``. A question's count
    never errs by more than 4, whatever happens; nor does a turn's, but for what questions force.
    """
    unit = _unit(alpha)
    bank = _nested()
    steps: dict[Category, float] = {"question": 0.4 * unit, "turn": 0.3 * unit, (): 0.05 * unit}
    control = Offsets(alpha, steps, caps={"question": 3, "turn": 3})
    return Gate(alpha, bank, control, online=online, seed=seed)


def marginal(alpha: float, *, online: bool = True, seed: int = 0) -> Gate:
    """One bank for all chunks, and the level is alpha."""
    return Gate(alpha, online=online, seed=seed)


def window(alpha: float, *, online: bool = True, seed: int = 0) -> Gate:
    """One bank of the last 1,000 scores."""
    return Gate(alpha, ScoreBank(window=1000), online=online, seed=seed)


def mondrian_turn(alpha: float, *, online: bool = True, seed: int = 0) -> Gate:
    """A bank for each turn."""
    return Gate(alpha, _by_turn(), online=online, seed=seed)


def mondrian_question(alpha: float, *, online: bool = True, seed: int = 0) -> Gate:
    """A bank for each question, and one for each turn while the question's is small."""
    return Gate(alpha, MondrianBank("question", _by_turn()), online=online, seed=seed)


def presampled(alpha: float, *, online: bool = False, seed: int = 0) -> Gate:
    """A fixed bank for each question, filled by `Gate.calibrate` before its first decision (the paper's way).

    A question without such scores is ranked among all questions' ones.
    """
    return Gate(alpha, MondrianBank("question", minimum=1), online=online, seed=seed)


def frozen(alpha: float, *, online: bool = False, seed: int = 0) -> Frozen:
    """One bank, a card's, that never learns, and the level is alpha: the only gate that can be certified.

    Raises:
        ValueError: `online`, which it is not.
    """
    if online:
        raise ValueError("gate frozen never learns, so its scores do not join its bank: leave online out")
    return Frozen(alpha, seed=seed)


def adaptive(alpha: float, *, online: bool = True, seed: int = 0) -> Gate:
    """One bank and one adaptive offset for all chunks: adaptive conformal inference."""
    return Gate(alpha, control=Offsets(alpha, {(): _unit(alpha) / 40}), online=online, seed=seed)


def adaptive_turn(alpha: float, *, online: bool = True, seed: int = 0) -> Gate:
    """A bank and an adaptive offset for each turn."""
    return Gate(alpha, _by_turn(), Offsets(alpha, {"turn": _unit(alpha) / 10}), online=online, seed=seed)


def decaying_turn(alpha: float, *, online: bool = True, seed: int = 0) -> Gate:
    """A bank and an offset for each turn, with steps that shrink as ``k ** -0.6``."""
    return Gate(alpha, _by_turn(), Offsets(alpha, {"turn": _unit(alpha)}, decay=0.6), online=online, seed=seed)


def turn_budget(budget: int, chains: int, *, online: bool = True, seed: int = 0) -> Gate:
    """At most `budget` of a question's `chains` chunks handed over in a turn; alpha is their ratio."""
    return _budgeted(TurnBudget(budget, chains), budget / chains, online, seed)


def open_budget(budget: int, chains: int, *, online: bool = True, seed: int = 0) -> Gate:
    """At most `budget` of a question's `chains` chains with the target at once; alpha is their ratio."""
    return _budgeted(OpenBudget(budget, chains), budget / chains, online, seed)


def _budgeted(control: Control, alpha: float, online: bool, seed: int) -> Gate:
    return Gate(alpha, _nested(), control, online=online, seed=seed)


def _unit(alpha: float) -> float:
    """What steps are measured in, a take-over's variance: a fixed step would drown a small alpha in its trembling."""
    return alpha * (1 - check_alpha(alpha))


def _nested() -> ShrunkBank:
    return ShrunkBank(("question", "turn"), ShrunkBank("question", weight=4), weight=2)


def _by_turn() -> MondrianBank:
    return MondrianBank("turn", window=KEPT)


def random(alpha: float, *, online: bool = True, seed: int = 0) -> Coin:
    """Hands over at random, whatever the score: what every other gate must beat."""
    return Coin(alpha, online=online, seed=seed)


def audited(
    alpha: float, epsilon: float, audit_rate: float = AUDIT_RATE, *, online: bool = True, seed: int = 0
) -> AuditedGate:  # fmt: skip
    """Holds the rate of wrong chunks that are accepted, by audits; alpha is the level it starts from.

    One bank of all scores: where chunks become harder their p-values become small, which by itself hands over more; a
    bank that follows the change, or one for each kind, would leave all of it to the level.
    """
    return AuditedGate(alpha, epsilon, audit_rate, online=online, seed=seed)


GATES: Mapping[str, Callable[..., Gate]] = {
    "balanced": balanced,
    "marginal": marginal,
    "window": window,
    "mondrian-turn": mondrian_turn,
    "mondrian-question": mondrian_question,
    "presampled": presampled,
    FROZEN: frozen,
    "adaptive": adaptive,
    "adaptive-turn": adaptive_turn,
    "decaying-turn": decaying_turn,
    "random": random,
}
BUDGETS: Mapping[str, Callable[..., Gate]] = {"turn-budget": turn_budget, "open-budget": open_budget}
KNOWN: Mapping[str, Callable[..., Gate]] = {**GATES, **BUDGETS, AUDITED: audited}
"""All that `make` makes."""


def make(
    name: str, alpha: float, *, chains: int | None = None, online: bool | None = None, seed: int = 0,
    epsilon: float | None = None, audit_rate: float | None = None,
) -> Gate:  # fmt: skip
    """The gate of that name.

    Args:
        name: in `KNOWN`.
        alpha: nominal take-over rate; for a budget, the budget over `chains`; for `AUDITED`, the level to start from.
        chains: how many chains a question has; only budgets ask.
        online: whether scores join the bank after their decision; None is what suits the gate.
        seed: of the smoothing draws and of those for audits.
        epsilon: false accepts per decision that are allowed; `AUDITED` needs it, and no other takes it.
        audit_rate: share of the accepted chunks that is audited; as epsilon, and by default `AUDIT_RATE`.

    Raises:
        ValueError: an unknown name, an alpha outside (0, 1), one that is no whole budget, or an epsilon or audit rate
            that is missing, out of its range, or of no use to the gate.
    """
    options: dict[str, Any] = {"seed": seed} | ({} if online is None else {"online": online})
    check_alpha(alpha)
    if name not in KNOWN:
        raise ValueError(f"unknown gate {name!r}; known: {', '.join(KNOWN)}")
    if name == AUDITED:
        if epsilon is None:
            raise ValueError(f"gate {name} needs epsilon, the false accepts per decision to be allowed, such as 0.03")
        return audited(alpha, epsilon, AUDIT_RATE if audit_rate is None else audit_rate, **options)
    if epsilon is not None or audit_rate is not None:
        raise ValueError(f"gate {name} asks for no audits and takes no epsilon or audit rate; gate {AUDITED} does")
    if name in GATES:
        return GATES[name](alpha, **options)
    if chains is None or not whole(chains) >= 2:
        raise ValueError(f"gate {name} needs questions of two chains or more, not {chains}")
    budget = round(alpha * chains)
    if abs(alpha * chains - budget) > 1e-6 * chains or not 0 < budget < chains:
        near = min(max(budget, 1), chains - 1)
        raise ValueError(
            f"gate {name}: alpha {alpha} of {chains} chains is no whole budget; "
            f"alpha {near / chains:.6g} is a budget of {near}"
        )
    return BUDGETS[name](budget, chains, **options)
