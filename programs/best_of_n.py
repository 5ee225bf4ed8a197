"""Best-of-N: sample chains, rate each, take the best.

Source: Cobbe et al. 2021 (arXiv 2110.14168), where a trained verifier rates; here the models at hand do.
"""

from __future__ import annotations

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count
from a1_sgl.programs.steps import whole
from a1_sgl.session import Query, run_chains
from a1_sgl.types import Result


@program(samples=8, vote="best", rate="target")
@sgl.function
def best_of_n(
    s: ProgramState,
    query: Query,
    max_tokens: Count = 4096,
) -> Result:
    """Chains of one generation each, rated when they end; the answer is the best one's.

    What they are rated by is `Query.rate`: ``target`` (mean token probability under the target), ``own`` (under the
    runtime that wrote it) or ``judge`` (the target's answer to a judge prompt). One prefill a chain.

    Args:
        max_tokens: longest chain, in tokens.

    Use it when the target can tell a good chain from a bad one but is too slow to write chains.
    """
    return run_chains(s, query, whole(max_tokens))
