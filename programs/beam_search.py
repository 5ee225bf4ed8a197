"""Beam search over steps, scored by the target.

Source: Snell et al. 2024 (arXiv 2408.03314, section 5.1), where a process reward model scores; here it is the target's
loss on the step, which needs no training.
"""

from __future__ import annotations

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count
from a1_sgl.programs.steps import by_loss, search
from a1_sgl.session import Group, Query
from a1_sgl.types import Result


@program(samples=8, joint=True, vote="best", settles=False)
@sgl.function
def beam_search(
    s: ProgramState,
    query: Query,
    width: Count = 4,
    turns: Count = 40,
    draft_tokens: Count = 500,
) -> Result:
    """All chains take a step, the best ``samples / width`` of them survive, each is copied `width` times; repeat.

    Args:
        width: candidates for each chain that survives (the paper's M; `samples` is its N).
        turns: most steps.
        draft_tokens: longest step, in tokens.

    A chain that has ended keeps its place. Use it when a target can tell early that a chain goes wrong. All chains soon
    stem from one; `dvts` keeps them apart.
    """
    with Group(s, query) as group:
        search(group, [group.chains], width, turns, by_loss(draft_tokens))
        return group.finish()
