"""Self-consistency: sample chains, vote; optionally stop when the vote is decided.

Sources: Wang et al. 2022 (arXiv 2203.11171); weighted by confidence: CISC (arXiv 2502.06233); stopping early:
Adaptive-Consistency (arXiv 2305.11860), here with stopping rules whose error is known.
"""

from __future__ import annotations

from typing import Annotated, Literal

import sglang as sgl
from pydantic import Field
from sglang.lang.interpreter import ProgramState

from a1_sgl.errors import ConfigError
from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count
from a1_sgl.programs.steps import whole
from a1_sgl.session import Query, run_chains
from a1_sgl.stopping import find_stop
from a1_sgl.types import Result


@program(samples=8, joint=True)
@sgl.function
def self_consistency(
    s: ProgramState,
    query: Query,
    max_tokens: Count = 4096,
    stop_when: Literal["never", "decided", "certain"] = "never",
    error: Annotated[float, Field(gt=0, lt=1)] = 0.05,
) -> Result:
    """Chains of one generation each, and a vote.

    Args:
        max_tokens: longest chain, in tokens.
        stop_when: ``never``; ``decided``, when no answer can catch up with the leader any more, which changes no
            majority; or ``certain``, when an answer has more than half of the model's answers but for a chance of
            `error`. Chains under way are then aborted (`a1_sgl.stopping`).
        error: that chance, for ``certain``.

    Use it when one model alone is to be more accurate and its errors differ from chain to chain. ``weighted`` and
    ``best`` votes are not stopped early: a rating can outweigh any number of chains.
    """
    until = find_stop(stop_when, query.chains, error)
    if until is not None and query.vote != "majority":
        raise ConfigError(f"stop_when {stop_when!r} is for majority votes, not for vote {query.vote!r}")
    return run_chains(s, query, whole(max_tokens), until=until)
