"""Self-rejection: one model redraws the chunks that it finds strange itself.

Source: the single-model variant of A1 (arXiv 2509.15148, released code).
"""

from __future__ import annotations

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.conformal import Decider
from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count, Number
from a1_sgl.programs.steps import redraw
from a1_sgl.session import Chain, Query, run_chains
from a1_sgl.types import Result


@program(gate="required")
@sgl.function
def self_reject(
    s: ProgramState,
    query: Query,
    gate: Decider,
    turns: Count = 15,
    draft_tokens: Count = 500,
    retries: Number = 3,
    score: str = "mean_loss",
) -> Result:
    """The model writes a chunk and scores it; a chunk that the gate rejects is drawn again.

    Args:
        gate: decides on each draw; alpha is the rate of rejected draws.
        turns: most turns a chain may take.
        draft_tokens: longest chunk, in tokens.
        retries: how often a chunk is drawn again in a turn; if all are rejected, the best is kept.
        score: what a chunk is judged by; a name in `a1_sgl.conformal.SCORES`.

    Use it with one model whose sampling at a warm temperature strays from what it finds likely.
    """

    def body(chain: Chain) -> None:
        for _ in range(turns):
            redraw(chain, gate, draft_tokens, retries, score)
            if chain.end_turn():
                break

    return run_chains(s, query, body)
