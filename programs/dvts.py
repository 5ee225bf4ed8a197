"""Diverse verifier tree search: beam search in independent trees.

Source: Beeching, Tunstall and Rush 2024, *Scaling test-time compute with open models* (Hugging Face).
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
def dvts(
    s: ProgramState,
    query: Query,
    width: Count = 4,
    turns: Count = 40,
    draft_tokens: Count = 500,
) -> Result:
    """The chains form ``samples / width`` trees of `width`; in each, the best step survives and is copied; repeat.

    Args:
        width: chains in a tree (the source's M).
        turns: most steps.
        draft_tokens: longest step, in tokens.

    Use it instead of `beam_search` with many chains, where beams would become alike.
    """
    with Group(s, query) as group:
        trees = [group.chains[i : i + width] for i in range(0, query.chains, width)]
        search(group, trees, width, turns, by_loss(draft_tokens))
        return group.finish()
