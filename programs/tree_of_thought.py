"""Tree of thought, breadth first: propose thoughts, let the model value each state in words, keep the best.

Source: Yao et al. 2023 (arXiv 2305.10601, algorithm 1).
"""

from __future__ import annotations

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count
from a1_sgl.programs.steps import search
from a1_sgl.session import Chain, Group, Query
from a1_sgl.session.judge import STEP
from a1_sgl.types import Result


@program(samples=8, joint=True, vote="best", settles=False)
@sgl.function
def tree_of_thought(
    s: ProgramState,
    query: Query,
    proposals: Count = 4,
    turns: Count = 40,
    draft_tokens: Count = 500,
    cue: str = "",
) -> Result:
    """Each of ``samples / proposals`` states is continued by `proposals` thoughts; the best-valued ones survive.

    Args:
        proposals: thoughts proposed for each state (the paper's k; ``samples / proposals`` is its b).
        turns: most thoughts in a row (the paper's T).
        draft_tokens: longest thought, in tokens.
        cue: value a state by the chance that the target would not go on with this word, as in `spec_reason`.

    The value of a state is the target's answer, 0 to 9, to a judge prompt about its last thought. Use it when the
    target judges better in words than by its loss; each value costs a prompt of some dozens of tokens.
    """

    def step(chain: Chain) -> float:
        chain.draft(draft_tokens)
        rating = chain.rate(STEP, cue=cue)
        chain.rated("judge", rating.mean / 9, rating.call)
        return rating.mean / 9

    with Group(s, query) as group:
        search(group, [group.chains], proposals, turns, step)
        return group.finish()
