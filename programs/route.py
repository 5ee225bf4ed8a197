"""Routing: each question goes to the draft, to the target or to A1, by its first chunks' p-values.

Source: the gate of A1 (arXiv 2509.15148); combining p-values by their mean is Vovk and Wang 2020 (Biometrika 107(4)).
"""

from __future__ import annotations

import statistics

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.conformal import Decider, Decision
from a1_sgl.errors import ConfigError
from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count, Share, TakeOver
from a1_sgl.session import Chain, Group, Query
from a1_sgl.types import Result


@program(gate="required", takes_over=True, joint=True)
@sgl.function
def route(
    s: ProgramState,
    query: Query,
    gate: Decider,
    turns: Count = 15,
    draft_tokens: Count = 500,
    target_tokens: Count = 500,
    take_over: TakeOver = "continue",
    easy: Share = 0.6,
    hard: Share = 0.2,
    score: str = "mean_loss",
) -> Result:
    """All chains draft one chunk; the mean of their p-values says who writes the rest.

    Args:
        gate: gives the p-values, and decides where A1 writes the rest.
        turns: most turns a chain may take.
        draft_tokens: longest chunk of the draft, in tokens.
        target_tokens: longest chunk of the target, in tokens.
        take_over: ``continue`` or ``replace``, as in `a1`.
        easy: at this mean p-value or above, the draft writes the rest alone.
        hard: where twice the mean is at most this, the target writes everything. Twice the mean of p-values is itself
            one, whatever their dependence, so that of questions like the calibration's at most this share is sent.
        score: what a chunk is judged by; a name in `a1_sgl.conformal.SCORES`.

    That share needs valid p-values: a gate whose bank holds first chunks (``mondrian-turn``). Use it where questions
    differ so much that most need no verification at all.
    """
    if hard > easy:
        raise ConfigError(f"hard must not be above easy, {hard} above {easy}")
    replace = take_over == "replace"

    def first(chain: Chain) -> Decision:
        chunk = chain.draft(draft_tokens)
        return chain.ask(chunk, chain.score(chunk, score), gate)

    def by_target(chain: Chain) -> None:
        chain.drop(chain.chunks[-1])
        while chain.turn < turns:
            chain.target(target_tokens)
            if chain.end_turn():
                break

    def by_draft(chain: Chain) -> None:
        while not chain.end_turn() and chain.turn < turns:
            chain.draft(draft_tokens)

    def by_a1(chain: Chain) -> None:
        if decisions[chain.sample].take_over:
            if replace:
                chain.drop(chain.chunks[-1])
            chain.target(target_tokens)
        while not chain.end_turn() and chain.turn < turns:
            if chain.judge(chain.draft(draft_tokens), gate, score=score, replace=replace):
                chain.target(target_tokens)

    with Group(s, query) as group:
        decisions = group.each(first)
        mean = statistics.fmean(decision.p_value for decision in decisions)
        return group.run(by_target if 2 * mean <= hard else by_draft if mean >= easy else by_a1)
