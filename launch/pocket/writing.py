"""What a pocket model is asked, and what it writes then."""

from __future__ import annotations

from functools import cache

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from a1_sgl.engine import Codec
from a1_sgl.evals.stories import Problem
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket.tokenizer import CONTEXT

TASK = find_task("stories")
codec_of = cache(Codec)
"""What to read and write with; making one takes longer than a sequence does."""


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of plain text."""
    return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def prompt_ids(tokenizer: PreTrainedTokenizerFast, problem: Problem) -> list[int]:
    """The rendered chat prompt of `problem`."""
    codec = codec_of(tokenizer)
    return list(codec.encode(codec.render(messages(problem))))


def messages(problem: Problem) -> tuple[dict[str, str], ...]:
    """`problem` as chat messages."""
    return TASK.ask(problem.text, TASK.families[0])


@torch.no_grad()
def sampled(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    temperature: float,
    tokens: int = CONTEXT,
    stop: int | None = None,
) -> list[str]:
    """What the model writes after each prompt, as far as its context goes or to a token `stop`, all in one batch."""
    width = max(map(len, prompts))
    device = next(model.parameters()).device
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts], device=device)
    out = model.generate(
        input_ids=ids,
        attention_mask=(ids != tokenizer.pad_token_id).long(),
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=min(tokens, CONTEXT - width),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.eos_token_id, *([] if stop is None else [stop])],
    )
    texts: list[str] = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return texts
