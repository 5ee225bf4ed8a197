"""Attention on the CPU engine, without what SGLang's torch-native backend does in vain.

It takes one sequence after the other, and copies the keys and values of each out of the cache with an indexing that
costs more than the attention. To extend a sequence, SGLang 0.5.23 also pads the new tokens' queries to the length of
the whole sequence, computes attention for all of them and throws away the rows of the tokens that were cached: much of
what verifying a chunk costs. Here only the new rows are computed, copies of a usual size go to the same memory each
time, and a decode step takes sequences of like length together. The function of torch is the same; results agree to
rounding.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

_EXTEND = (
    "self", "query", "output", "k_cache", "v_cache", "req_to_token", "req_pool_indices", "seq_lens",
    "extend_prefix_lens", "extend_seq_lens", "encoder_lens", "scaling", "enable_gqa", "causal", "is_cross_attn",
    "sliding_window_size",
)  # fmt: skip
_DECODE = tuple(name for name in _EXTEND if not name.startswith("extend_"))
_LARGEST = 1 << 18
"""Numbers in a mask."""
_TOGETHER = 1 << 20
"""Numbers that are copied out of a layer's keys for a block of sequences, if it has more than one: what caches hold."""
_KEPT = 1 << 24
"""Numbers for which memory is kept. What is larger comes and goes, as SGLang's own copies do."""


def patch(module: Any) -> None:
    """Makes `module`, SGLang's, compute attention this way wherever a sequence attends to all that comes before.

    A function of another version of SGLang, which takes something else, is left as it is.
    """
    backend = getattr(module, "TorchNativeAttnBackend", None)
    for name, parameters, lighter in (
        ("_run_sdpa_forward_extend", _EXTEND, _extend),
        ("_run_sdpa_forward_decode", _DECODE, _decode),
    ):
        whole = getattr(backend, name, None)
        if whole is not None and tuple(inspect.signature(whole).parameters) == parameters:
            setattr(backend, name, lighter(whole))


def _extend(whole: Callable[..., Any]) -> Callable[..., Any]:
    """In place of `whole`, which extends all sequences of a batch."""
    copied = _Copies()

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
            keys, values = copied(k_cache, v_cache, req_to_token[place : place + 1, :length], query.dtype)
            for first, last in _blocks(length - new, length):
                rows = slice(start + first - (length - new), start + last - (length - new))
                found = scaled_dot_product_attention(
                    query[rows].transpose(0, 1)[None], keys[:, :, :last], values[:, :, :last],
                    attn_mask=_mask(last - first, last, query.dtype), scale=scaling, enable_gqa=enable_gqa,
                )  # fmt: skip
                output[rows] = found[0].transpose(0, 1)
            start += new
        return output

    return extend


def _decode(whole: Callable[..., Any]) -> Callable[..., Any]:
    """In place of `whole`, which computes one new token of each sequence of a batch."""
    copied = _Copies()

    def decode(
        self: Any, query: Any, output: Any, k_cache: Any, v_cache: Any, req_to_token: Any, req_pool_indices: Any,
        seq_lens: Any, encoder_lens: Any = None, scaling: Any = None, enable_gqa: bool = False, causal: bool = False,
        is_cross_attn: bool = False, sliding_window_size: int | None = None,
    ) -> Any:  # fmt: skip
        windowed, lengths = sliding_window_size is not None and sliding_window_size > -1, seq_lens.tolist()
        if encoder_lens is not None or is_cross_attn or windowed or causal or 0 in lengths:
            return whole(
                self, query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens, encoder_lens, scaling,
                enable_gqa, causal, is_cross_attn, sliding_window_size,
            )  # fmt: skip
        for rows in _alike(lengths, _TOGETHER // k_cache[0].numel()):
            places, mask = req_to_token[req_pool_indices[rows], : lengths[rows[0]]], None
            if lengths[rows[0]] != lengths[rows[-1]]:
                mask = _ends(tuple(lengths[row] for row in rows), query.dtype)
                # Behind a sequence's end its row has what others left there.
                places = places.where(mask[:, 0, 0] == 0, places[:, :1])
            keys, values = copied(k_cache, v_cache, places, query.dtype)
            found = scaled_dot_product_attention(
                query[rows][:, :, None], keys, values, attn_mask=mask, scale=scaling, enable_gqa=enable_gqa
            )
            output[rows] = found[:, :, 0]
        return output

    return decode


class _Copies(threading.local):
    """Keys and values of sequences, copied out of the cache into memory that is used again."""

    def __init__(self) -> None:
        self._memory: dict[int, torch.Tensor] = {}

    def __call__(
        self, k_cache: torch.Tensor, v_cache: torch.Tensor, places: torch.Tensor, dtype: torch.dtype
    ) -> Iterator[torch.Tensor]:
        """Of each sequence of `places`, shape (sequences, tokens): two of shape (sequences, heads, tokens, size).

        They are good until the next call.
        """
        for which, cached in enumerate((k_cache, v_cache)):
            shape = (*places.shape, *cached.shape[1:])
            made = self._room(which, cached, places.numel())
            torch.index_select(cached, 0, places.reshape(-1), out=made)
            yield made.view(shape).transpose(1, 2).to(dtype)

    def _room(self, which: int, cached: torch.Tensor, tokens: int) -> torch.Tensor:
        held = self._memory.get(which)
        if held is None or len(held) < tokens or held.shape[1:] != cached.shape[1:] or held.dtype != cached.dtype:
            held = cached.new_empty((tokens + tokens // 4, *cached.shape[1:]))
            if held.numel() <= _KEPT:
                self._memory[which] = held
        return held[:tokens]


def _blocks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Rows in blocks whose masks are small."""
    while first < last:
        after = min(last, first + max(1, _LARGEST // last))
        yield first, after
        first = after


def _alike(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """The sequences by length, longest first, in blocks of `tokens` tokens at most, or one sequence."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    while order:
        count = max(1, tokens // lengths[order[0]])
        yield order[:count]
        order = order[count:]


@lru_cache(maxsize=128)
def _mask(new: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    """Added to the scores of the last `new` of `length` tokens: none may see what comes after it. Shape (new, length).

    Every layer of a step asks for the same ones.
    """
    return torch.full((new, length), float("-inf"), dtype=dtype).triu(length - new + 1)


@lru_cache(maxsize=128)
def _ends(lengths: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Added to the scores of sequences that are padded to the longest: none may see what comes after its end.

    Shape (sequences, 1, 1, longest); the first is the longest. Every layer of a step asks for the same ones.
    """
    after = torch.arange(lengths[0]) >= torch.tensor(lengths)[:, None]
    return torch.zeros(after.shape, dtype=dtype).masked_fill(after, float("-inf"))[:, None, None]
