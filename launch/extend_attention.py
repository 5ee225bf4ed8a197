"""Attention of an extend on the CPU engine, without what SGLang's torch-native backend computes in vain.

To extend a sequence, SGLang 0.5.23 pads the new tokens' queries to the length of the whole sequence, computes attention
for all of them and throws away the rows of the tokens that were cached: much of what verifying a chunk costs. Here only
the new rows are computed, by the same function of torch; results agree to rounding. Decoding is SGLang's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

_PARAMETERS = (
    "self", "query", "output", "k_cache", "v_cache", "req_to_token", "req_pool_indices", "seq_lens",
    "extend_prefix_lens", "extend_seq_lens", "encoder_lens", "scaling", "enable_gqa", "causal", "is_cross_attn",
    "sliding_window_size",
)  # fmt: skip
_LARGEST = 1 << 18
"""Numbers in a mask."""


def patch(module: Any) -> None:
    """Makes `module`, SGLang's, extend this way wherever a sequence attends to all that comes before.

    A version of SGLang whose function takes something else is left as it is.
    """
    whole = getattr(getattr(module, "TorchNativeAttnBackend", None), "_run_sdpa_forward_extend", None)
    if whole is None or tuple(inspect.signature(whole).parameters) != _PARAMETERS:
        return

    def extend(
        self: Any, query: Any, output: Any, k_cache: Any, v_cache: Any, req_to_token: Any, req_pool_indices: Any,
        seq_lens: Any, extend_prefix_lens: Any, extend_seq_lens: Any, encoder_lens: Any = None, scaling: Any = None,
        enable_gqa: bool = False, causal: bool = False, is_cross_attn: bool = False,
        sliding_window_size: int | None = None,
    ) -> Any:  # fmt: skip
        windowed = sliding_window_size is not None and sliding_window_size > -1
        if encoder_lens is not None or is_cross_attn or windowed or not causal:
            return whole(
                self, query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens, extend_prefix_lens,
                extend_seq_lens, encoder_lens, scaling, enable_gqa, causal, is_cross_attn, sliding_window_size,
            )  # fmt: skip
        start = 0
        for length, new, place in zip(
            seq_lens.tolist(), extend_seq_lens.tolist(), req_pool_indices.tolist(), strict=True
        ):
            tokens = req_to_token[place, :length]
            keys, values = (cached[tokens].transpose(0, 1).to(query.dtype) for cached in (k_cache, v_cache))
            for first, last in _blocks(length - new, length):
                rows = slice(start + first - (length - new), start + last - (length - new))
                found = scaled_dot_product_attention(
                    query[rows].transpose(0, 1)[None], keys[None, :, :last], values[None, :, :last],
                    attn_mask=_mask(last - first, last, query.dtype), scale=scaling, enable_gqa=enable_gqa,
                )  # fmt: skip
                output[rows] = found[0].transpose(0, 1)
            start += new
        return output

    module.TorchNativeAttnBackend._run_sdpa_forward_extend = extend


def _blocks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Rows in blocks whose masks are small."""
    while first < last:
        after = min(last, first + max(1, _LARGEST // last))
        yield first, after
        first = after


@lru_cache(maxsize=128)
def _mask(new: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    """Added to the scores of the last `new` of `length` tokens: none may see what comes after it. Shape (new, length).

    Every layer of a step asks for the same ones.
    """
    return torch.full((new, length), float("-inf"), dtype=dtype).triu(length - new + 1)
