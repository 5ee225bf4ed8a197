"""SpecReason: the target rates each step of the draft from 0 to 9 in words, and rewrites what is below a threshold.

Source: *SpecReason: Fast and Accurate Inference-Time Compute via Speculative Reasoning* (arXiv 2504.07891).
"""

from __future__ import annotations

from typing import Annotated

import sglang as sgl
from pydantic import Field
from sglang.lang.interpreter import ProgramState

from a1_sgl.conformal import Decider
from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count, Number
from a1_sgl.session import Chain, Query, Scored, run_chains
from a1_sgl.session.judge import STEP
from a1_sgl.types import Chunk, Result


@program(gate="optional", takes_over=True)
@sgl.function
def spec_reason(
    s: ProgramState,
    query: Query,
    gate: Decider | None = None,
    turns: Count = 15,
    draft_tokens: Count = 500,
    target_tokens: Count = 500,
    threshold: Annotated[float, Field(ge=0, le=10)] = 7.0,
    first_by_target: Number = 0,
    cue: str = "",
) -> Result:
    """The draft writes a step, the target rates it; a step below `threshold` is dropped and written by the target.

    Args:
        gate: decides on ``9 - rating`` instead of the threshold, which makes the rate of take-overs alpha.
        turns: most steps a chain may take.
        draft_tokens: longest step of the draft, in tokens.
        target_tokens: longest step of the target, in tokens.
        threshold: the lowest rating that passes, 0 to 9 (the paper's is 7 for most models); above 9 none does.
        first_by_target: how many steps the target writes before the draft may (the paper's knob for planning).
        cue: word with which the target begins a correction, such as ``Wait``; the rating is then 9 times the chance
            that it would not begin with it, and no judge prompt is sent. For a target that was not taught to judge.

    The rating is the mean of the digits, weighted by their probabilities. Each costs a prefill of the judge prompt,
    some dozens of tokens, and no decode. Use it to compare with: a target that judges well in words is needed.
    """

    def body(chain: Chain) -> None:
        def rated(chunk: Chunk) -> Scored:
            rating = chain.rate(STEP, cue=cue)
            return Scored(9 - rating.mean, len(chunk.ids), (rating.call,), rating=rating.mean)

        for turn in range(turns):
            if turn < first_by_target:
                chain.target(target_tokens)
            else:
                chunk = chain.draft(draft_tokens)
                if gate is not None:
                    rejected = chain.judge(chunk, gate, score=rated, replace=True)
                else:
                    scored = rated(chunk)
                    rejected = chain.verdict(chunk, scored, scored.value > 9 - threshold, replace=True)
                if rejected:
                    chain.target(target_tokens)
            if chain.end_turn():
                break

    return run_chains(s, query, body)
