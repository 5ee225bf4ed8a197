"""The pocket pair's tokenizer: a byte-level BPE, every digit and every word of the task a token, ChatML template."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from a1_sgl.evals.stories import problems
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket.corpus import transcript
from a1_sgl.launch.shapes import SPECIAL, TEMPLATE

VOCABULARY = 640
CONTEXT = 1024
"""Longest sequence, in tokens."""
# A blank line, a digit, an operator with its spaces, a word with the space before it, a space before a digit, the rest.
_PIECES = Regex(r"\n\n|\d| [-+*=] | ?\p{L}+| (?=\d)| ?[^\s\p{L}\d]+|\s+")


def load_or_train(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder`, trained and saved there first if it is missing."""
    if not (folder / "tokenizer.json").exists():
        _train().save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _train() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_PIECES, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    rng, task = random.Random("tokenizer"), find_task("stories")
    texts = [
        "".join(f"{one['role']}\n{one['content']}\n" for one in task.ask(problem.text, "any"))
        + "assistant\n"
        + "\n\n".join(line.text for line in transcript(problem, rng, 0.1))
        for problem in itertools.islice(problems("train", 0), 2000)
    ]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            # The last id is never used: SGLang 0.5.23 reports id vocabulary-1 as 0 in input log-probabilities.
            vocab_size=VOCABULARY - 1,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
