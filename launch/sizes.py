"""How large a model is on a GPU: its weights, and what a token of a chain takes in the KV cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a1_sgl.errors import ConfigError
from a1_sgl.launch.shapes import PUBLISHED, Shape

_TOKENS, _CACHE = 200_000, 3.1 * 2**30
_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "half": 2.0, "float": 4.0}
_QUANTISED = {"fp8": 1.0, "w8a8_fp8": 1.0, "w8a8_int8": 1.0, "awq": 0.56, "gptq": 0.56, "awq_marlin": 0.56,
              "gptq_marlin": 0.56}  # fmt: skip
"""Bytes a weight; four bits and the scales of groups of 128 are 0.56."""


@dataclass(frozen=True)
class Size:
    """What a model takes.

    Attributes:
        weights: bytes of its weights.
        kv: bytes a token takes in the KV cache, all layers together.
        context: longest sequence, in tokens.
        kv_heads: over how many GPUs the KV cache can be split.
        heads: of attention; as many GPUs as divide them can share the model.
    """

    weights: float
    kv: float
    context: int
    kv_heads: int
    heads: int

    def __post_init__(self) -> None:
        if min(self.weights, self.kv, self.context, self.kv_heads, self.heads) <= 0:
            raise ValueError(f"a model has weights, layers, heads and a context: {self}")


def size_of(model: str, flags: Mapping[str, Any], *, cpu: bool = False) -> Size | None:
    """The size of a model as it is served with these flags; None where nothing is known of it.

    A folder's files are read; published models are known; of others the hub is asked.

    Args:
        model: a folder or a hub name.
        flags: SGLang's, as a recipe has them; those for types and quantisation matter, and ``context-length``.
        cpu: whether it is served by the CPU engine, which takes 32 bits for everything.

    Raises:
        ConfigError: the folder is none of a model.
    """
    try:
        return _sized(model, flags, cpu)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{model}: its config.json is not what a language model's is ({type(error).__name__}: {error}), so "
            "nobody can say how large it is"
        ) from error


def cpu_tokens(model: str) -> int:
    """How many tokens of `model` the CPU engine's cache is made for: 200,000, or what 3.1 GiB hold if that is less.

    That memory is taken at once: 200,000 tokens of a model of 135 million parameters would be 9 GB, and of the larger
    pocket target they are 3.1 GiB. A model that is not a folder here is taken for small.
    """
    if not Path(model).is_dir():
        return _TOKENS
    try:
        size = size_of(model, {}, cpu=True)
    except ConfigError:  # of which the server will speak
        return _TOKENS
    return _TOKENS if size is None else min(_TOKENS, int(_CACHE // size.kv))


def _sized(model: str, flags: Mapping[str, Any], cpu: bool) -> Size | None:
    whole, parameters, stored = _described(model)
    if whole is None:
        return None
    config = whole.get("text_config") or whole  # of a model that sees, too
    dtype = "float32" if cpu else str(flags.get("dtype", "auto"))
    a_number = _BYTES.get(dtype if dtype != "auto" else _native(config), 2.0)
    quantised = _QUANTISED.get(str(flags.get("quantization")))
    if stored and ("quantization_config" in whole or (dtype == "auto" and quantised is None)):
        weights = stored  # as they are
    else:
        weights = (parameters or _dense(config)) * (quantised or a_number)
    in_cache = 1.0 if str(flags.get("kv-cache-dtype", "auto")).startswith("fp8") else a_number
    heads = int(config["num_attention_heads"])
    kv_heads = 1 if config.get("kv_lora_rank") else int(config.get("num_key_value_heads") or heads)
    context = int(flags.get("context-length") or config.get("max_position_embeddings") or 0)
    return Size(weights, _numbers(config, kv_heads) * in_cache, context, kv_heads, heads)


def _dense(config: Mapping[str, Any]) -> float:
    """How many parameters a model of that shape has, if its layers are plain ones; of one without weights here."""
    shape = Shape(
        config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"], config["num_attention_heads"],
        config.get("num_key_value_heads") or config["num_attention_heads"], config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings")), head=config.get("head_dim") or 0,
    )  # fmt: skip
    return shape.parameters


def _native(config: Mapping[str, Any]) -> str:
    return str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")


def _numbers(config: Mapping[str, Any], heads: int) -> int:
    """What a token leaves in the cache. Layers of linear attention leave nothing; those with a window are counted,
    since SGLang has a smaller cache for them with some architectures only."""
    kinds = config.get("layer_types") or ()
    layers: int = int(config["num_hidden_layers"]) - list(kinds).count("linear_attention")
    if config.get("kv_lora_rank"):  # latent attention keeps one vector for keys and values, whole on each GPU
        return layers * int(config["kv_lora_rank"] + config.get("qk_rope_head_dim", 0))
    head = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    return 2 * layers * heads * head


def _described(model: str) -> tuple[Mapping[str, Any] | None, float, float]:
    """Its ``config.json``, how many parameters it has, and how many bytes its files take, where they are here."""
    if (folder := Path(model)).is_dir():
        return _in_folder(folder)
    if (shape := PUBLISHED.get(model)) is not None:
        return shape.config(), shape.parameters, 0.0
    return _from_hub(model)


def _in_folder(folder: Path) -> tuple[Mapping[str, Any], float, float]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is no model's folder: its config.json cannot be read ({error})") from error
    stored = 0.0
    for kind in ("safetensors", "bin", "pt", "gguf"):  # one kind is served, and not a second copy of it in one file
        files = [file for file in folder.glob(f"*.{kind}") if not file.name.startswith("consolidated")]
        stored = stored or float(sum(file.stat().st_size for file in files))
    return config, stored / _BYTES.get(_native(config), 2.0), stored


def _from_hub(model: str) -> tuple[Mapping[str, Any] | None, float, float]:
    """From the hub's cache on this machine, or from the hub, which is asked once: this is an estimate."""
    import httpx
    from huggingface_hub import constants, hf_hub_url, snapshot_download
    from huggingface_hub.utils import build_hf_headers

    try:
        return _in_folder(Path(snapshot_download(model, local_files_only=True)))
    except Exception:  # not there, or not wholly: it raises many kinds
        pass
    try:
        ask = {"headers": build_hf_headers(), "follow_redirects": True, "timeout": 10.0}
        config = httpx.get(hf_hub_url(model, "config.json"), **ask).raise_for_status().json()
        about = httpx.get(f"{constants.ENDPOINT}/api/models/{model}", **ask).raise_for_status().json()
        return config, float(about["safetensors"]["total"]), 0.0
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None, 0.0, 0.0
