"""Self-rejection with forks: a chain that keeps being rejected goes on from its question's best chain.

Source: the single-model variant of A1 with forks (arXiv 2509.15148, released code).
"""

from __future__ import annotations

import statistics

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.conformal import Decider
from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count, Number
from a1_sgl.programs.steps import redraw
from a1_sgl.session import Chain, Query, run_chains
from a1_sgl.types import Result


@program(gate="required", joint=True, settles=False)
@sgl.function
def self_reject_fork(
    s: ProgramState,
    query: Query,
    gate: Decider,
    turns: Count = 15,
    draft_tokens: Count = 500,
    retries: Number = 3,
    progress: float = 0.02,
    gap: float = 0.05,
    score: str = "mean_loss",
) -> Result:
    """Like `self_reject`; where every draw of a turn is rejected, the chain becomes a fork of the best peer.

    Args:
        gate: decides on each draw; alpha is the rate of rejected draws.
        turns: most turns a chain may take.
        draft_tokens: longest chunk, in tokens.
        retries: how often a chunk is drawn again in a turn.
        progress: reward for each turn that a chain is ahead, in units of the score; without it, chains that have just
            begun look best.
        gap: by how much a peer must be better, in units of the score.
        score: what a chunk is judged by; a name in `a1_sgl.conformal.SCORES`.

    A chain stands in the pool as it was after its last turn. Use it with one model and chains that get stuck.
    """
    pool: dict[int, Chain] = {}

    def worth(chain: Chain) -> float:  # lower is better
        return statistics.fmean(chain.scores.values() or (0.0,)) - progress * chain.turn

    def publish(chain: Chain) -> None:
        if (before := pool.get(chain.sample)) is not None:
            before.discard()
        pool[chain.sample] = chain.fork()

    def best_peer(chain: Chain) -> Chain | None:
        peers = [peer for sample, peer in pool.items() if sample != chain.sample and peer.ending is None]
        best = min(peers, key=worth, default=None)
        return best.fork() if best is not None and worth(best) < worth(chain) - gap else None

    def body(chain: Chain) -> None:
        for _ in range(turns):
            accepted = redraw(chain, gate, draft_tokens, retries, score)
            over = chain.end_turn()
            if not accepted and (peer := best_peer(chain)) is not None:
                chain.become(peer)
            elif over:
                break
            publish(chain)

    return run_chains(s, query, body)
