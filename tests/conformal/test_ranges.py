"""No gate, nor what it is made of, takes a number that is outside its range, or something that is no number."""

import math

import pytest

from a1_sgl.conformal import (
    BUDGETS,
    GATES,
    SCORES,
    Audited,
    AuditedGate,
    Fixed,
    Gate,
    GuardedGate,
    MondrianBank,
    Offsets,
    ScoreBank,
    ShrunkBank,
    SimpleJumper,
    SleeperStayer,
    Trial,
    TwoStage,
    audited,
    false_accepts,
    make,
    questions_needed,
    scores_needed,
)  # fmt: skip

OWN = next(score for score in SCORES.values() if score.by_draft)
NONSENSE = ("x", None, True, math.nan, math.inf, -math.inf, -1, [0.5])
BUT_INF = [one for one in NONSENSE if one != math.inf]
SHARE = (*NONSENSE, 0, 1, 1.5)
COUNT = (*NONSENSE, 0, 1.5, 2.0)
POSITIVE = (*NONSENSE, 0)


def gate():
    return make("marginal", 0.25)


def offsets(alpha, step, decay, cap):
    return Offsets(alpha, {"turn": step}, decay=decay, caps={"turn": cap})


# What makes it, what is fine, and what is not, by argument; None is fine where it means something.
RANGES = {
    **{name: (make_, {"alpha": (0.25, SHARE)}) for name, make_ in (*GATES.items(), ("Gate", Gate), ("Fixed", Fixed))},
    **{name: (make_, {"budget": (1, (*COUNT, 4)), "chains": (4, (*COUNT, 1))}) for name, make_ in BUDGETS.items()},
    **{
        f"make {name}": (lambda alpha, chains, name=name: make(name, alpha, chains=chains),
                         {"alpha": (0.25, SHARE), "chains": (4, COUNT)})
        for name in BUDGETS
    },
    "audited": (audited, {"alpha": (0.25, SHARE), "epsilon": (0.1, SHARE), "audit_rate": (0.1, POSITIVE)}),
    "AuditedGate": (AuditedGate, {"alpha": (0.25, SHARE), "epsilon": (0.1, SHARE), "rate": (1, (*POSITIVE, 1.5)),
                                  "rise": (0.1, POSITIVE)}),
    "Audited": (Audited, {"start": (0.25, SHARE), "epsilon": (0.1, SHARE), "rate": (0.1, (*POSITIVE, 1.5)),
                          "rise": (0.1, POSITIVE)}),
    "Offsets": (offsets, {"alpha": (0.25, SHARE), "step": (0.1, POSITIVE), "decay": (0, (*NONSENSE, 1)),
                          "cap": (3, POSITIVE)}),
    "TwoStage": (lambda **given: TwoStage(gate(), OWN, **given),
                 {"eta": (0, (*NONSENSE, 0.25)), "explore": (2, (*COUNT, 1)), "delta": (0.05, SHARE)}),
    "GuardedGate": (lambda **given: GuardedGate(gate(), **given),
                    {"threshold": (100, (*BUT_INF, 0, 1)), "chains": (1, [one for one in COUNT if one is not None])}),
    "ScoreBank": (lambda window: ScoreBank(window=window), {"window": (1, [one for one in COUNT if one is not None])}),
    "MondrianBank": (lambda **given: MondrianBank("turn", **given),
                     {"minimum": (1, COUNT), "window": (5, [one for one in COUNT if one is not None])}),
    "ShrunkBank": (lambda **given: ShrunkBank("turn", **given),
                   {"weight": (4, POSITIVE), "window": (5, [one for one in COUNT if one is not None])}),
    "SimpleJumper": (lambda jump, bet: SimpleJumper(jump, [bet]),
                     {"jump": (0.01, SHARE), "bet": (1, (*NONSENSE[:-2], 3))}),
    "SleeperStayer": (SleeperStayer, {"wake": (0.01, SHARE), "grid": (2, (*COUNT, 1, 2**70))}),
    "Trial": (lambda **given: Trial(after=None, **given),
              {"alpha": (0.25, SHARE), "lost": (1, (*NONSENSE, 1.5)), "n": (5, COUNT), "e_value": (2.0, NONSENSE[:4])}),
    "false_accepts": (false_accepts, {"wrong": (0, (*NONSENSE, 1.5)), "rate": (0.1, POSITIVE), "delta": (0.05, SHARE)}),
    "questions_needed": (questions_needed, {"epsilon": (0.1, SHARE), "delta": (0.1, SHARE)}),
    "scores_needed": (scores_needed, {"alpha": (0.25, SHARE)}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name, (_, ranges) in RANGES.items() for argument in ranges]
)
def test_what_is_out_of_range_is_refused(name, argument):
    make_, ranges = RANGES[name]
    fine = {one: value for one, (value, _) in ranges.items()}
    make_(**fine)
    for bad in ranges[argument][1]:
        with pytest.raises(ValueError, match=r"\w"):
            make_(**fine | {argument: bad})
