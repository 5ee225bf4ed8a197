"""Budget forcing: a chain that would end is made to think on, one that does not end is made to answer.

Source: s1, *Simple test-time scaling* (arXiv 2501.19393, section 3).
"""

from __future__ import annotations

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count, Number
from a1_sgl.session import Chain, Query, run_chains
from a1_sgl.types import Result


@program(samples=1)
@sgl.function
def budget_forcing(
    s: ProgramState,
    query: Query,
    max_tokens: Count = 4096,
    extensions: Number = 2,
    wait: str = "\n\nWait, ",
    end_of_thinking: str = "</think>",
    answer_prompt: str = "\n\nThe answer is \\boxed{",
    answer_tokens: Count = 256,
) -> Result:
    """Thinking ends `extensions` times with "Wait" instead; then, if there is none, an answer is asked for.

    Args:
        max_tokens: longest thinking, in tokens, all extensions together.
        extensions: how often the end of thinking is put off (the paper's ignored end-of-thinking tokens).
        wait: what is put there instead.
        end_of_thinking: text with which the model's thinking ends, beside its end token.
        answer_prompt: what a chain without an answer is continued with.
        answer_tokens: longest answer, in tokens.

    Use it to buy accuracy with longer chains from a model that mends its errors when it looks again.
    """

    def body(chain: Chain) -> None:
        left = max_tokens
        for extension in range(extensions + 1):
            chunk = chain.draft(left, stop=end_of_thinking)
            left -= len(chunk.ids)
            chain.end_turn()
            thought = chunk.ended or chunk.text.endswith(end_of_thinking)
            if not thought or chain.full or left <= 0 or extension == extensions:
                break
            chain.trim(chunk, end_of_thinking)
            chain.append(wait)
        if not chunk.ended and not chain.full and chunk.text.endswith(end_of_thinking):
            chain.draft(answer_tokens)
        if chain.answer is None and not chain.full:
            chain.append(answer_prompt)
            chain.draft(answer_tokens, stop="\n")

    return run_chains(s, query, body)
