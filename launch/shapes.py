"""Models without weights: ``python -m a1_sgl.launch.shapes qwen2.5-32b FOLDER``.

A folder with the configuration of a published model and a tokenizer of that vocabulary, to be served with
``--load-format dummy``: what a request costs does not depend on what the weights say. The tokenizer knows ASCII, and
otherwise made-up words: any id at all is understood, and read back as itself, also by the other model of a pair. So a
chunk has as many tokens for the one that verifies it as for the one that wrote it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from a1_sgl.errors import ConfigError

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPACE = "Ġ"
SYLLABLES = tuple(a + b for b in "aeiouAEIOU" for a in "bcdfghjklmnpqrstvwxzBCDFGHJKLMNPQRSTVWXZ")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """A dense model's dimensions, from its published ``config.json``: Qwen2's, or a Llama's where `bias` is False.

    Attributes:
        layers, hidden, inner, heads, kv_heads, vocabulary: as they are called.
        tied: whether input and output embeddings are one.
        context: longest sequence.
        dtype: of its weights.
        head: width of a head, where it is not `hidden` over `heads`.
        bias: whether queries, keys and values have one.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False
    context: int = 32_768
    dtype: str = "bfloat16"
    head: int = 0
    bias: bool = True

    @property
    def parameters(self) -> int:
        """How many weights it has; norms of queries and keys, a few hundred a layer, are left out."""
        size = self.head or self.hidden // self.heads
        width = self.heads * size
        kv = self.kv_heads * size
        attention = self.hidden * (width + 2 * kv) + self.bias * (width + 2 * kv) + width * self.hidden
        layer = attention + 3 * self.hidden * self.inner + 2 * self.hidden
        return self.layers * layer + self.hidden + (1 if self.tied else 2) * self.vocabulary * self.hidden

    def config(self) -> dict[str, Any]:
        """As transformers has it."""
        return {
            "architectures": ["Qwen2ForCausalLM" if self.bias else "LlamaForCausalLM"],
            "model_type": "qwen2" if self.bias else "llama", "hidden_act": "silu",
            "hidden_size": self.hidden, "intermediate_size": self.inner, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "tie_word_embeddings": self.tied, "torch_dtype": self.dtype, "initializer_range": 0.02,
            "bos_token_id": None, "eos_token_id": SPECIAL.index("<|im_end|>"), "use_sliding_window": False,
            **({"head_dim": self.head} if self.head else {}),
        }  # fmt: skip


SHAPES = {
    "qwen2.5-1.5b": Shape(28, 1536, 8960, 12, 2, 151_936, tied=True),
    "qwen2.5-7b": Shape(28, 3584, 18_944, 28, 4, 152_064),
    "qwen2.5-14b": Shape(48, 5120, 13_824, 40, 8, 152_064),
    "qwen2.5-32b": Shape(64, 5120, 27_648, 40, 8, 152_064),
    "small": Shape(2, 64, 172, 4, 4, 640, tied=True, context=1024, dtype="float32"),
    "large": Shape(16, 128, 344, 4, 4, 640, tied=True, context=1024, dtype="float32"),
}
"""By name. The last two are the pocket pair's, for a machine without a GPU."""

_LLAMA_8B = Shape(32, 4096, 14_336, 32, 8, 128_256, context=131_072, bias=False)
PUBLISHED = {
    "Qwen/Qwen2.5-1.5B-Instruct": SHAPES["qwen2.5-1.5b"],
    "Qwen/Qwen2.5-7B-Instruct": SHAPES["qwen2.5-7b"],
    "Qwen/Qwen2.5-32B-Instruct": SHAPES["qwen2.5-32b"],
    "Qwen/QwQ-32B": replace(SHAPES["qwen2.5-32b"], context=40_960),
    "Qwen/Qwen3-1.7B": Shape(28, 2048, 6144, 16, 8, 151_936, tied=True, context=40_960, head=128, bias=False),
    "Qwen/Qwen3-32B": Shape(64, 5120, 25_600, 64, 8, 151_936, context=40_960, head=128, bias=False),
    "simplescaling/s1.1-32B": SHAPES["qwen2.5-32b"],
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": _LLAMA_8B,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": Shape(
        80, 8192, 28_672, 64, 8, 128_256, context=131_072, bias=False
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": replace(SHAPES["qwen2.5-1.5b"], tied=False, context=131_072),
}  # fmt: skip
"""By hub name, so that what a pair needs is known without asking the hub."""


def write(name: str, folder: Path) -> Path:
    """Makes the folder.

    Raises:
        ConfigError: an unknown shape.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, __version__

    if name not in SHAPES:
        raise ConfigError(f"unknown shape {name!r}; known: {', '.join(SHAPES)}")
    shape = SHAPES[name]
    folder.mkdir(parents=True, exist_ok=True)
    # Without a version, transformers takes a large vocabulary for one of another maker's broken tokenizers.
    (folder / "config.json").write_text(json.dumps(shape.config() | {"transformers_version": __version__}, indent=1))
    # The last id stays free: SGLang reports it as 0 in input log-probabilities.
    words, merges = _words(shape.vocabulary - 1)
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE,
        model_max_length=shape.context,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _words(size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """A vocabulary and its merges: letters, syllables, and words of two syllables after a space.

    A syllable is a consonant and a vowel, so that there is one way to merge letters to words.
    """
    words = [*SPECIAL, "Ċ", SPACE, *map(chr, range(ord("!"), ord("~") + 1))]  # as byte-level tokenizers spell them
    left = size - len(words)
    parts = next(n for n in range(len(SYLLABLES) + 1) if n * n + 2 * n >= left)
    syllables = SYLLABLES[:parts]
    merges = [(one[0], one[1]) for one in syllables]
    merges += [(SPACE, one) for one in syllables]
    merges += islice(((SPACE + one, other) for one in syllables for other in syllables), left - 2 * parts)
    return words + [one + other for one, other in merges], merges


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(SHAPES)}.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
) -> None:
    """Make a model's folder, without weights."""
    try:
        write(name, folder)
    except ConfigError as error:
        typer.echo(f"shapes: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{folder}: {SHAPES[name].parameters / 1e9:.3g} billion parameters, without weights")


if __name__ == "__main__":
    typer.run(main)
