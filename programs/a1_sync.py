"""The synchronous way: after every turn all chains wait, are ranked, and the worst B are handed over.

Source: the baseline of A1 (arXiv 2509.15148): speculative rejection with a budget, without conformal prediction.
"""

from __future__ import annotations

from dataclasses import replace

import sglang as sgl
from scipy.special import softmax
from sglang.lang.interpreter import ProgramState

from a1_sgl.errors import ConfigError
from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count, Number, TakeOver
from a1_sgl.session import Group, Query
from a1_sgl.types import Result


@program(takes_over=True, joint=True)
@sgl.function
def a1_sync(
    s: ProgramState,
    query: Query,
    turns: Count = 15,
    draft_tokens: Count = 500,
    target_tokens: Count = 500,
    take_over: TakeOver = "continue",
    budget: Number = 1,
    score: str = "mean_loss",
) -> Result:
    """In every turn the question's chains are drafted, scored and ranked together; the `budget` worst are handed over.

    Args:
        turns: most turns a chain may take.
        draft_tokens: longest draft chunk, in tokens.
        target_tokens: longest take-over, in tokens.
        take_over: ``continue`` or ``replace``, as in `a1`.
        budget: how many chains are handed over in a turn (the paper's B); all of them where fewer are left. ``budget /
            samples`` is the nominal rate.
        score: what a chunk is ranked by; a name in `a1_sgl.conformal.SCORES`.

    The scores of a turn are softmax-normalised, as in the source, which changes no ranking; the shares are what the
    verdicts report. Use it to measure what the barrier costs, and what ranking within a question is worth.
    """
    if not 0 <= budget <= query.chains:
        raise ConfigError(f"budget must lie between 0 and samples = {query.chains}, not {budget}")
    with Group(s, query) as group:
        for _ in range(turns):
            if not (going := [chain for chain in group.chains if chain.ending is None]):
                break
            scored = group.each(lambda chain: chain.score(chain.draft(draft_tokens), score), going)
            shares = softmax([one.value for one in scored])
            ranked = sorted(range(len(going)), key=lambda i: -shares[i])
            handed = []
            for i, chain in enumerate(going):
                share = replace(scored[i], value=float(shares[i]))
                if chain.verdict(chain.chunks[-1], share, i in ranked[:budget], replace=take_over == "replace"):
                    handed.append(chain)
            group.each(lambda chain: chain.target(target_tokens), handed)
            for chain in going:
                chain.end_turn()
        return group.finish()
