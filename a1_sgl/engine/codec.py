"""A model's tokenizer and chat template: text to ids and back, messages to prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from a1_sgl.errors import ConfigError


class Codec:
    """Text, ids and prompts as one model has them.

    Attributes:
        tokenizer: a tokenizer of transformers, or anything that has its ``encode``, ``decode``, ``eos_token_id``,
            ``chat_template`` and ``apply_chat_template``.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of plain text, without special tokens around it."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """What each of `ids` adds to their text; a character of several tokens is the last one's."""
        found: list[str] = []
        start, said = 0, ""
        for i in range(len(ids)):
            text = self.decode(ids[start : i + 1])
            whole = i + 1 == len(ids) or not text.endswith("\N{REPLACEMENT CHARACTER}")
            found.append(text[len(said) :] if whole else "")
            if whole:  # with one token before it, so that a tokenizer that swallows a leading space keeps it
                start, said = i, self.decode(ids[i : i + 1])
        return tuple(found)

    @property
    def eos(self) -> int | None:
        """The id with which the model ends its turn."""
        found: int | None = self.tokenizer.eos_token_id
        return found

    @property
    def size(self) -> int:
        """How many ids the tokenizer knows."""
        return len(self.tokenizer)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt for `messages`, ready for the assistant's turn.

        Raises:
            ConfigError: the tokenizer has no chat template.
        """
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"the tokenizer {self.tokenizer.name_or_path} has no chat template; use an instruction-tuned model, "
                "or add a chat_template.jinja to its folder"
            )
        turns = [dict(message) for message in messages]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    def after(self, messages: Sequence[Mapping[str, Any]], ask: str) -> str:
        """What comes between an assistant's text and its answer to the user's next message, `ask`.

        It is appended to a chain as it stands, so that the chain stays in the prefix cache. A template that leaves
        earlier turns of the assistant out has no such text; then `ask` follows in a paragraph of its own.
        """
        mark = "\u241ea1\u241e"
        turns = [*messages, {"role": "assistant", "content": mark}, {"role": "user", "content": ask}]
        _, found, suffix = self.render(turns).rpartition(mark)
        return suffix if found else f"\n\n{ask}\n\n"

    @cached_property
    def template_key(self) -> str:
        """Identifies the chat template."""
        return _hash(str(self.tokenizer.chat_template or ""))

    @cached_property
    def tokenizer_key(self) -> str:
        """Identifies the tokenizer."""
        if getattr(self.tokenizer, "is_fast", False):
            state = json.loads(self.tokenizer.backend_tokenizer.to_str())
            # Padding and truncation are settings of a call, not of the vocabulary.
            return _hash(json.dumps(state | {"padding": None, "truncation": None}, sort_keys=True))
        return _hash(json.dumps(sorted(self.tokenizer.get_vocab().items())))

    @cached_property
    def key(self) -> str:
        """Identifies tokenizer and chat template together."""
        return f"{self.template_key}/{self.tokenizer_key}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
