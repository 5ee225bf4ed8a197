"""Models of other makes on the CPU engine: small ones with random weights, each beside transformers."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from a1_sgl.engine import Request, wait
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.launch.runtimes import Spec, serve

SIZE = {
    "vocab_size": 384, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 2,
    "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
OTHERS = {
    "llama": {}, "qwen2": {}, "qwen3": {}, "mistral": {}, "phi3": {},
    # Layers that look back 16 tokens, and one that sees all.
    "gemma3_text": {
        "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 16,
    },
}  # fmt: skip


def model(kind, folder):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZE, **OTHERS[kind])
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    for file in Path(pocket_specs()[0].model).glob("*token*"):
        shutil.copy(file, folder)
    return Spec(kind, str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("pair", [("llama", "gemma3_text"), ("qwen2", "qwen3"), ("mistral", "phi3")])
def test_a_model_of_another_make_scores_as_in_transformers(pair, tmp_path, engine, reference):
    specs = [model(kind, tmp_path / kind) for kind in pair]
    ids = np.random.default_rng(0).integers(3, 383, 60).astype(np.int32)
    with serve(specs, tmp_path / "logs") as running:
        for one in running:
            served = engine(one.url, one.name)
            whole = reference(one.model, ids.tolist())
            for start, end in ((20, 30), (30, 45), (45, 60)):
                scores = wait(served.score(Request(ids[:end]), start))
                assert scores.logprobs == pytest.approx(whole[start - 1 : end - 1], abs=1e-4)
                assert scores.spent.cached_tokens == (0 if start == 20 else start - 1)
            said = wait(served.generate(Request(ids, logprobs=0), {"max_new_tokens": 8, "temperature": 0.0}))
            assert len(said.ids) > 1 or said.ended
            after = reference(one.model, [*ids.tolist(), *said.ids])[len(ids) - 1 :]
            assert said.logprobs[: len(said.ids)] == pytest.approx(after, abs=1e-4)
