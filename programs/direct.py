"""One model, one pass: what every other program is measured against."""

from __future__ import annotations

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count
from a1_sgl.programs.steps import whole
from a1_sgl.session import Query, run_chains
from a1_sgl.types import Result


@program(samples=1)
@sgl.function
def direct(
    s: ProgramState,
    query: Query,
    max_tokens: Count = 4096,
) -> Result:
    """Each chain is one generation.

    Args:
        max_tokens: longest chain, in tokens.

    Use it as the floor (on the draft) and the ceiling (on the target).
    """
    return run_chains(s, query, whole(max_tokens))
