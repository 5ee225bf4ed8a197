"""A1: the draft writes, the target scores each chunk in one prefill, a conformal gate decides who goes on.

Source: *A1: Asynchronous Test-Time Scaling via Conformal Prediction* (arXiv 2509.15148), there called ATTS.
"""

from __future__ import annotations

from typing import Literal

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.conformal import Decider
from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count, Number
from a1_sgl.programs.steps import redraw
from a1_sgl.session import Chain, Group, Query
from a1_sgl.types import Result


@program(gate="required", takes_over=True)
@sgl.function
def a1(
    s: ProgramState,
    query: Query,
    gate: Decider,
    turns: Count = 15,
    draft_tokens: Count = 500,
    target_tokens: Count = 500,
    take_over: Literal["continue", "replace", "resample"] = "continue",
    retries: Number = 4,
    score: str = "mean_loss",
    presample: Number = 0,
) -> Result:
    """Draft, verify, gate, take over, repeat; a chain waits for no other.

    Args:
        gate: decides on each chunk; shared by all chains of all questions. A gate with a budget
            (`a1_sgl.conformal.turn_budget`) makes this A1 with a budget.
        turns: most turns a chain may take.
        draft_tokens: longest draft chunk, in tokens (the paper's K_d).
        target_tokens: longest take-over, in tokens (the paper's K_t).
        take_over: ``continue`` keeps the rejected chunk and lets the target go on after it (the paper); ``replace``
            drops it and lets the target write the turn; ``resample`` lets the draft try again and keeps the best, so
            that the target only ever scores.
        retries: how often ``resample`` tries again in a turn.
        score: what a chunk is judged by; a name in `a1_sgl.conformal.SCORES`.
        presample: how many first chunks to draft and score for the gate's bank before the chains begin, and throw away
            (the paper's online calibration).

    Use it when a draft is right most of the time and the target can tell when it is not.
    """

    def rehearse(chain: Chain) -> None:
        chain.calibrate(chain.draft(draft_tokens), gate, score=score)

    def body(chain: Chain) -> None:
        for _ in range(turns):
            if take_over == "resample":
                redraw(chain, gate, draft_tokens, retries, score)
            elif chain.judge(chain.draft(draft_tokens), gate, score=score, replace=take_over == "replace"):
                chain.target(target_tokens, live=True)
            if chain.end_turn():
                break

    with Group(s, query) as group:
        group.rehearse(rehearse, presample)
        return group.run(body)
