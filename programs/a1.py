"""A1: the draft writes, the target scores each chunk in one prefill, a conformal gate decides who goes on.

Source: *A1: Asynchronous Test-Time Scaling via Conformal Prediction* (arXiv 2509.15148), there called ATTS.
"""

from __future__ import annotations

import sglang as sgl

from a1_sgl.conformal import Gate
from a1_sgl.runtime import Chain, run_chains
from a1_sgl.types import Listener, Question, Result

TAKE_OVERS = ("continue", "replace")


@sgl.function
def a1(
    s: sgl.lang.interpreter.ProgramState,
    question: str | Question,
    gate: Gate,
    samples: int | tuple[int, ...] = 4,
    listener: Listener | None = None,
    turns: int = 15,
    draft_tokens: int = 500,
    target_tokens: int = 500,
    take_over: str = "continue",
) -> Result:
    """Draft, verify, gate, take over, repeat; a chain waits for no other.

    Args:
        question: what to solve.
        gate: decides on each chunk; shared by all chains of all questions.
        samples: how many chains, or their numbers.
        listener: told of every event.
        turns: most turns a chain may take.
        draft_tokens: longest draft chunk, in tokens (the paper's K_d).
        target_tokens: longest take-over, in tokens (the paper's K_t).
        take_over: ``continue`` keeps the rejected chunk and lets the target go on after it (the paper), ``replace``
            drops it and lets the target write the turn.

    Use it when a draft is right most of the time and the target can tell when it is not.
    """
    if take_over not in TAKE_OVERS:
        raise ValueError(f"unknown take-over {take_over!r}; known: {', '.join(TAKE_OVERS)}")

    def body(chain: Chain) -> None:
        for _ in range(turns):
            chunk = chain.draft(draft_tokens)
            if chain.judge(chunk, gate, replace=take_over == "replace"):
                chain.target(target_tokens)
            if chain.end_turn():
                break

    return run_chains(s, question, samples, body, listener)
