"""Steps that several programs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from a1_sgl.conformal import UNSEEN, Decider
from a1_sgl.session import Chain, Group


def whole(max_tokens: int) -> Callable[[Chain], None]:
    """The body of a program whose chains are one generation each."""

    def body(chain: Chain) -> None:
        # No stop strings: they end chunks, and this chain has but one.
        chain.draft(max_tokens, live=True, stop=[])
        chain.end_turn()

    return body


def by_loss(max_tokens: int) -> Callable[[Chain], float]:
    """A step for `search`: a chunk, worth its mean token probability under the target."""

    def step(chain: Chain) -> float:
        scored = chain.score(chain.draft(max_tokens))
        chain.rated("target", math.exp(-scored.value), scored.calls[0])
        return math.exp(-scored.value)

    return step


def redraw(chain: Chain, gate: Decider, max_tokens: int, retries: int, score: str) -> bool:
    """Writes a chunk, and again up to `retries` times while the gate rejects it; of rejected ones the best is kept.

    Returns:
        Whether the gate accepted the chunk that is kept.
    """
    drawn: list[tuple[float, Chain]] = []
    accepted = False
    while not accepted and len(drawn) <= retries:
        branch = chain.fork()
        branch.attempt = len(drawn)
        chunk = branch.draft(max_tokens)
        accepted = not branch.judge(chunk, gate, score=score)
        drawn.append((branch.scores.get(chunk.start, UNSEEN), branch))
    _, kept = drawn[-1] if accepted else min(drawn, key=lambda pair: pair[0])
    chain.become(kept)
    for _, branch in drawn:
        if branch is not kept:
            branch.discard("redrawn")
    return accepted


def search(
    group: Group,
    trees: Sequence[Sequence[Chain]],
    width: int,
    turns: int,
    step: Callable[[Chain], float],
) -> None:
    """Grows every tree by a step at a time; of a tree's unfinished chains the best ``1 / width`` are copied.

    Args:
        group: whose chains these are.
        trees: the chains, tree by tree.
        width: how many candidates compete for each chain that survives.
        turns: most steps.
        step: writes one chunk and says what the chain is worth with it, higher is better.
    """
    for _ in range(turns):
        if not (going := [chain for chain in group.chains if chain.ending is None]):
            break
        for chain, worth in zip(going, group.each(step, going), strict=True):
            chain.rating = worth
            chain.end_turn()
        for tree in trees:
            ranked = sorted(
                (chain for chain in tree if chain in going), key=lambda chain: chain.rating or 0.0, reverse=True
            )
            kept = ranked[: math.ceil(len(ranked) / width)]
            for i, chain in enumerate(ranked[len(kept) :]):
                chain.become(kept[i % len(kept)].fork())
