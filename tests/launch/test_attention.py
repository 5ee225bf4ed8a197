"""The lighter attention computes what SGLang's own does."""

from types import SimpleNamespace

import pytest
import torch

from a1_sgl.launch import attention

HEADS, SIZE = 4, 32
LENGTHS = [(0, 40), (3, 1), (254, 56), (700, 20), (0, 900), (37, 640)]
"""Cached and new tokens of the sequences of a batch."""
KINDS = ("extend", "decode")


@pytest.fixture(scope="module")
def own():
    """SGLang's backend as it ships, and patched."""
    import importlib.util

    import a1_sgl.session  # noqa: F401  stands in for what only a GPU needs

    name = "sglang.srt.layers.attention.torch_native_backend"
    loaded = []
    for patched in (False, True):
        spec = importlib.util.find_spec(name)
        module = importlib.util.module_from_spec(spec)
        type(spec.loader).exec_module(spec.loader, module)
        if patched:
            attention.patch(module)
        loaded.append(module.TorchNativeAttnBackend)
    for kind in KINDS:
        assert getattr(loaded[0], f"_run_sdpa_forward_{kind}") is not getattr(loaded[1], f"_run_sdpa_forward_{kind}")
    return loaded


def pools(drawn, groups):
    """Keys and values of which only the slots of the sequences are numbers, and which slots these are."""
    pool = torch.full((2, 8000, HEADS // groups, SIZE), float("nan"))
    # What lies behind a sequence's end was of others.
    places = torch.randperm(8000, generator=drawn)[: len(LENGTHS) * 1000].reshape(len(LENGTHS), 1000)
    for row, length in zip(places, map(sum, LENGTHS), strict=True):
        pool[:, row[:length]] = torch.randn(2, length, HEADS // groups, SIZE, generator=drawn)
    return pool, places.int()


@pytest.mark.parametrize("groups", [1, 2])
def test_the_new_rows_are_those_that_sglang_computes(own, groups, monkeypatch):
    monkeypatch.setattr(attention, "_LARGEST", 1 << 14)  # so that long ones go in blocks
    drawn = torch.Generator().manual_seed(0)
    query = torch.randn(sum(one for _, one in LENGTHS), HEADS, SIZE, generator=drawn)
    pool, places = pools(drawn, groups)
    outputs = []
    for backend in own:
        output = torch.empty_like(query)
        backend._run_sdpa_forward_extend(
            SimpleNamespace(), query, output, pool[0], pool[1], places, torch.arange(len(LENGTHS)),
            torch.tensor([sum(one) for one in LENGTHS]), torch.tensor([one for one, _ in LENGTHS]),
            torch.tensor([one for _, one in LENGTHS]), scaling=SIZE**-0.5, enable_gqa=groups > 1, causal=True,
        )  # fmt: skip
        outputs.append(output)
    assert torch.allclose(*outputs, atol=2e-6)


@pytest.mark.parametrize(("together", "kept"), [(1, 1 << 24), (1 << 17, 1 << 24), (1 << 20, 1 << 24), (1 << 20, 0)])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_step_writes_the_tokens_that_sglang_writes(own, groups, together, kept, monkeypatch):
    monkeypatch.setattr(attention, "_TOGETHER", together)  # one by one, in blocks, all at once
    monkeypatch.setattr(attention, "_KEPT", kept)
    drawn = torch.Generator().manual_seed(1)
    pool, places = pools(drawn, groups)
    lengths, rows = torch.tensor([sum(one) for one in LENGTHS]), torch.tensor([4, 0, 3, 1, 5, 2])
    outputs = []
    for backend in own:
        drawn.manual_seed(2)
        found = []
        for after in (0, -2, -1):  # memory is used again
            query = torch.randn(len(rows), HEADS, SIZE, generator=drawn)
            found.append(
                backend._run_sdpa_forward_decode(
                    SimpleNamespace(), query, torch.empty_like(query), pool[0], pool[1], places, rows,
                    (lengths[rows] + after).clamp(min=1), scaling=SIZE**-0.5, enable_gqa=groups > 1,
                )
            )  # fmt: skip
        outputs.append(torch.stack(found))
    assert torch.allclose(*outputs, atol=2e-6)
    assert not outputs[0].isnan().any()


def test_a_cache_of_half_precision_is_read_in_the_precision_of_the_query(own):
    drawn = torch.Generator().manual_seed(3)
    pool, places = pools(drawn, 1)
    query = torch.randn(len(LENGTHS), HEADS, SIZE, generator=drawn)
    outputs = [
        backend._run_sdpa_forward_decode(
            SimpleNamespace(), query, torch.empty_like(query), *pool.half(), places, torch.arange(len(LENGTHS)),
            torch.tensor([sum(one) for one in LENGTHS]), scaling=SIZE**-0.5,
        )
        for backend in own
    ]  # fmt: skip
    assert torch.allclose(*outputs, atol=2e-6)


@pytest.mark.parametrize(("lengths", "tokens", "blocks"), [
    ([3, 9, 4, 8], 18, [[1, 3], [2, 0]]),
    ([3, 9, 4, 8], 1, [[1], [3], [2], [0]]),
    ([3, 9, 4, 8], 100, [[1, 3, 2, 0]]),
    ([5, 5], 0, [[0], [1]]),
])  # fmt: skip
def test_sequences_of_like_length_are_taken_together(lengths, tokens, blocks):
    assert list(attention._alike(lengths, tokens)) == blocks


def test_what_else_there_is_is_left_to_sglang():
    seen = []

    class Backend:
        def _run_sdpa_forward_extend(
            self, query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens, extend_prefix_lens,
            extend_seq_lens, encoder_lens=None, scaling=None, enable_gqa=False, causal=False, is_cross_attn=False,
            sliding_window_size=None,
        ):  # fmt: skip
            seen.append("extend")

        def _run_sdpa_forward_decode(
            self, query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens, encoder_lens=None,
            scaling=None, enable_gqa=False, causal=False, is_cross_attn=False, sliding_window_size=None,
        ):  # fmt: skip
            seen.append("decode")

    nothing, something = torch.tensor([3, 0]), torch.tensor([3])

    attention.patch(SimpleNamespace(TorchNativeAttnBackend=Backend))
    for run, arguments, causal in (
        (Backend()._run_sdpa_forward_extend, "qokvrpspe", True),
        (Backend()._run_sdpa_forward_decode, (*"qokvrp", something), False),
    ):
        run(*arguments, causal=not causal)
        run(*arguments, causal=causal, sliding_window_size=64)
        run(*arguments, causal=causal, encoder_lens="here")
        run(*arguments, causal=causal, is_cross_attn=True)
    Backend()._run_sdpa_forward_decode(*"qokvrp", nothing)  # a sequence that holds no token
    assert seen == ["extend"] * 4 + ["decode"] * 5


def test_another_version_is_left_as_it_is():
    class Backend:
        def _run_sdpa_forward_extend(self, query, something_else):
            pass

    before = Backend._run_sdpa_forward_extend
    attention.patch(SimpleNamespace(TorchNativeAttnBackend=Backend))
    assert Backend._run_sdpa_forward_extend is before
    attention.patch(SimpleNamespace())


def test_the_runtimes_of_this_machine_have_it():
    from a1_sgl.launch.cpu_engine import has_gpu

    if has_gpu():
        pytest.skip("a GPU has kernels of its own")
    import sglang.srt.layers.attention.torch_native_backend as backend

    for kind in KINDS:
        made = getattr(backend.TorchNativeAttnBackend, f"_run_sdpa_forward_{kind}")
        assert made.__module__ == attention.__name__
