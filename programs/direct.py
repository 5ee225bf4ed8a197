"""One model, one pass: what every other program is measured against."""

from __future__ import annotations

import sglang as sgl

from a1_sgl.runtime import Chain, run_chains
from a1_sgl.types import Listener, Question, Result


@sgl.function
def direct(
    s: sgl.lang.interpreter.ProgramState,
    question: str | Question,
    samples: int | tuple[int, ...] = 1,
    listener: Listener | None = None,
    max_tokens: int = 4096,
) -> Result:
    """Each chain is one generation by the backend's one runtime.

    Args:
        question: what to solve.
        samples: how many chains, or their numbers.
        listener: told of every event.
        max_tokens: longest chain, in tokens.

    Use it as the floor (on the draft), the ceiling (on the target), or for self-consistency with `Result.answer`.
    """

    def body(chain: Chain) -> None:
        chain.write(s.stream_executor.backend, max_tokens)
        chain.end_turn()

    return run_chains(s, question, samples, body, listener)
