"""A1 with lookahead: while the target verifies a chunk, the draft already writes the next one.

Source: A1 (arXiv 2509.15148) for the gate; verification off the critical path, as in pipelined speculative decoding
(PEARL, arXiv 2408.11850), is this project's.
"""

from __future__ import annotations

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.conformal import Decider
from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count, TakeOver
from a1_sgl.session import Chain, Query, run_chains
from a1_sgl.types import Result


@program(gate="required", takes_over=True)
@sgl.function
def a1_lookahead(
    s: ProgramState,
    query: Query,
    gate: Decider,
    turns: Count = 15,
    draft_tokens: Count = 500,
    target_tokens: Count = 500,
    take_over: TakeOver = "continue",
    score: str = "mean_loss",
) -> Result:
    """Like `a1`; the next chunk is begun at once, and rolled back if the gate hands this one over.

    Args:
        gate: decides on each chunk; shared by all chains of all questions.
        turns: most turns a chain may take.
        draft_tokens: longest draft chunk, in tokens.
        target_tokens: longest take-over, in tokens.
        take_over: ``continue`` or ``replace``, as in `a1`.
        score: what a chunk is judged by; a name in `a1_sgl.conformal.SCORES`.

    Tokens drafted in vain are accounted as dropped. Use it where the draft has capacity to spare and the time of one
    chain counts: each accepted turn saves the shorter of its verification and its next draft.
    """

    def body(chain: Chain) -> None:
        chunk = chain.draft(draft_tokens)
        for turn in range(turns):
            ahead = None
            if chain.ending is None and turn + 1 < turns:
                ahead = chain.fork()
                ahead.begin(ahead.roles.writer, draft_tokens)
            handed = chain.judge(chunk, gate, score=score, replace=take_over == "replace")
            if handed:
                if ahead is not None:
                    ahead.stop()
                chain.target(target_tokens)
                if ahead is not None:
                    ahead.discard()
            over = chain.end_turn()
            if ahead is not None and not handed:
                chain.become(ahead)
            if over or turn + 1 == turns:
                break
            chunk = chain.draft(draft_tokens)

    return run_chains(s, query, body)
