"""The lighter extend computes what SGLang's own does."""

from types import SimpleNamespace

import pytest
import torch

from a1_sgl.launch import extend_attention

HEADS, SIZE = 4, 32
LENGTHS = [(0, 40), (3, 1), (254, 56), (700, 20), (0, 900), (37, 640)]
"""Cached and new tokens of the sequences of a batch."""


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
            extend_attention.patch(module)
        loaded.append(module.TorchNativeAttnBackend._run_sdpa_forward_extend)
    assert loaded[0] is not loaded[1]
    return loaded


@pytest.mark.parametrize("groups", [1, 2])
def test_the_new_rows_are_those_that_sglang_computes(own, groups, monkeypatch):
    monkeypatch.setattr(extend_attention, "_LARGEST", 1 << 14)  # so that long ones go in blocks
    drawn = torch.Generator().manual_seed(0)
    new = sum(one for _, one in LENGTHS)
    query = torch.randn(new, HEADS, SIZE, generator=drawn)
    pool = torch.randn(2, 8000, HEADS // groups, SIZE, generator=drawn)
    places = torch.randperm(8000, generator=drawn)[: len(LENGTHS) * 1000].reshape(len(LENGTHS), 1000)
    outputs = []
    for run in own:
        output = torch.empty_like(query)
        run(
            SimpleNamespace(), query, output, pool[0], pool[1], places, torch.arange(len(LENGTHS)),
            torch.tensor([sum(one) for one in LENGTHS]), torch.tensor([one for one, _ in LENGTHS]),
            torch.tensor([one for _, one in LENGTHS]), scaling=SIZE**-0.5, enable_gqa=groups > 1, causal=True,
        )  # fmt: skip
        outputs.append(output)
    assert torch.allclose(*outputs, atol=2e-6)


def test_what_is_not_causal_is_left_to_sglang(own):
    seen = []

    class Backend:
        def _run_sdpa_forward_extend(
            self, query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens, extend_prefix_lens,
            extend_seq_lens, encoder_lens=None, scaling=None, enable_gqa=False, causal=False, is_cross_attn=False,
            sliding_window_size=None,
        ):  # fmt: skip
            seen.append(query)

    module = SimpleNamespace(TorchNativeAttnBackend=Backend)
    extend_attention.patch(module)
    Backend()._run_sdpa_forward_extend(*"qokvrpspe", causal=False)
    Backend()._run_sdpa_forward_extend(*"qokvrpspe", causal=True, sliding_window_size=64)
    Backend()._run_sdpa_forward_extend(*"qokvrpspe", causal=True, encoder_lens="here")
    assert len(seen) == 3


def test_another_version_is_left_as_it_is():
    class Backend:
        def _run_sdpa_forward_extend(self, query, something_else):
            pass

    before = Backend._run_sdpa_forward_extend
    extend_attention.patch(SimpleNamespace(TorchNativeAttnBackend=Backend))
    assert Backend._run_sdpa_forward_extend is before
    extend_attention.patch(SimpleNamespace())


def test_the_runtimes_of_this_machine_have_it():
    from a1_sgl.launch.cpu_engine import has_gpu

    if has_gpu():
        pytest.skip("a GPU has kernels of its own")
    import sglang.srt.layers.attention.torch_native_backend as backend

    assert backend.TorchNativeAttnBackend._run_sdpa_forward_extend.__module__ == extend_attention.__name__
