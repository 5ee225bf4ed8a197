"""A model's tokenizer and chat template: text to ids and back, messages to prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from a1_sgl.errors import ConfigError, first_line

_MARK = "\u241e"
"""A character that no tokenizer merges with what comes after it."""


class Codec:
    """Text, ids and prompts as one model has them.

    Attributes:
        tokenizer: a tokenizer of transformers, or anything that has its ``encode``, ``decode``, ``eos_token_id``,
            ``chat_template`` and ``apply_chat_template``.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str, *, first: bool = False, plain: bool = False) -> tuple[int, ...]:
        """Ids of `text` where it stands within a longer one, without special tokens around it.

        Args:
            first: nothing comes before it. Llama's tokenizer, and those made like it, put a space before a text; inside
                one that would be a space that nobody wrote.
            plain: the name of a special token in it is mere letters. So it is in what another model wrote; in a prompt,
                and in what a program puts into a chain, it is the token.
        """
        if first or not self._spaced:
            return self._ids(text, plain)
        return self._ids(_MARK + text, plain)[self._mark :]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` where they stand within a longer one, special tokens left out."""
        if not self._spaced:
            return self._text(ids)
        before, length = self._before
        return self._text([*before, *ids])[length:]

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """What each of `ids` adds to their text; a character of several tokens is the last one's."""
        found: list[str] = []
        start = 0
        for end in range(1, len(ids) + 1):
            text = self.decode(ids[start:end])
            whole = end == len(ids) or not text.endswith("\N{REPLACEMENT CHARACTER}")
            found.append(text if whole else "")
            start = end if whole else start
        return tuple(found)

    @cached_property
    def eos(self) -> int | None:
        """The id with which the model ends its turn: the one that its chat template puts after an answer, such as
        Gemma's ``<end_of_turn>``, and the tokenizer's end token where that puts none."""
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
            suffix = ""
            with suppress(TemplateError):
                _, found, suffix = self._render(turns, False).rpartition(_MARK)
                suffix = suffix if found else ""  # a template that leaves such turns out says nothing of their end
            for one in self._ids(suffix):
                if not self._text([one]) and self.tokenizer.decode([one], skip_special_tokens=False):
                    return one
        end: int | None = self.tokenizer.eos_token_id
        return end

    @property
    def size(self) -> int:
        """How many ids the tokenizer knows."""
        return len(self.tokenizer)

    def begun(self, text: str) -> str:
        """A prompt that is no chat: `text` after what the tokenizer puts before any, such as Gemma's ``<bos>``."""
        return text if text.startswith(self._begin) else self._begin + text

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the chat template has a place for tools; one that has none leaves them out without a word."""
        asked = [{"role": "user", "content": "a"}]
        tool = {"type": "function", "function": {"name": "a1_probe", "description": "", "parameters": {
            "type": "object", "properties": {}}}}  # fmt: skip
        try:
            return "a1_probe" in self._render(asked, True, [tool])
        except (TemplateError, TypeError, ValueError):
            return False

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The prompt for `messages`, ready for the assistant's turn, with the `tools` that it may call.

        A template that refuses a system prompt, as Gemma 2's and early Mistral ones do, is given it as the beginning of
        the user's first message, as their makers advise.

        Raises:
            ConfigError: the tokenizer has no chat template, or one that refuses the messages or has no place for tools.
        """
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"the tokenizer {self.tokenizer.name_or_path} has no chat template; use an instruction-tuned model, "
                "or add a chat_template.jinja to its folder"
            )
        if tools and not self.takes_tools:
            raise ConfigError(f"the chat template of {self.tokenizer.name_or_path} has no place for tools")
        try:
            return self._render(messages, True, tools)
        except TemplateError as error:
            if (folded := _folded(messages)) is not None:
                with suppress(TemplateError):
                    return self._render(folded, True, tools)
            roles = ", ".join(str(message["role"]) for message in messages)
            raise ConfigError(
                f"the chat template of {self.tokenizer.name_or_path} refuses messages of {roles}: {first_line(error)}"
            ) from error

    def after(self, messages: Sequence[Mapping[str, Any]], ask: str) -> str:
        """What comes between an assistant's text and its answer to the user's next message, `ask`.

        It is appended to a chain as it stands, so that the chain stays in the prefix cache. A template that leaves
        earlier turns of the assistant out has no such text; then `ask` follows in a paragraph of its own.
        """
        mark = f"{_MARK}a1{_MARK}"
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

    # --- inside -----------------------------------------------------------------------------------------------

    @cached_property
    def _spaced(self) -> bool:
        """Whether a text on its own is not what it is inside another: a space is put before it, or taken off it."""
        one = self._ids("a")
        return self._text([*one, *one]) != "aa" or self._text(self._ids(" a")) != " a"

    @cached_property
    def _mark(self) -> int:
        """How many ids the mark is."""
        return len(self._ids(_MARK))

    @cached_property
    def _before(self) -> tuple[tuple[int, ...], int]:
        """Ids to read others after, and the length of their text. No mark: it is bytes, which are read together with
        bytes that follow."""
        ids = self._ids("a")
        return ids, len(self._text(ids))

    @cached_property
    def _letters(self) -> Any:
        """The tokenizer by which names of special tokens are letters: a copy, since that is a setting of the whole, and
        another thread may be encoding a prompt."""
        return deepcopy(self.tokenizer)

    def _ids(self, text: str, plain: bool = False) -> tuple[int, ...]:
        # Tokenizers that are not fast ones take no names of special tokens in a text, or cannot be told not to.
        if plain and getattr(self.tokenizer, "is_fast", False):
            return tuple(self._letters.encode(text, add_special_tokens=False, split_special_tokens=True))
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def _begin(self) -> str:
        """The text of the special tokens with which the tokenizer begins any text."""
        alone = list(self.tokenizer.encode("a", add_special_tokens=False))
        whole = list(self.tokenizer.encode("a", add_special_tokens=True))
        found = next((i for i in range(len(whole)) if whole[i : i + len(alone)] == alone), 0)
        return str(self.tokenizer.decode(whole[:found], skip_special_tokens=False)) if found else ""

    def _render(
        self, messages: Sequence[Mapping[str, Any]], ready: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        turns = [dict(message) for message in messages]
        # Not as a matter of course: a stand-in for a tokenizer need not know them.
        more = {"tools": [dict(tool) for tool in tools]} if tools else {}
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ready, **more)
        assert isinstance(text, str)
        return text


def _folded(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """The system prompt at the head of the first message; None where there is none to fold."""
    if [message["role"] for message in messages[:2]] != ["system", "user"]:
        return None
    system, user, *rest = messages
    said, asked = system["content"], user["content"]
    if isinstance(said, str) and isinstance(asked, str):
        return [{**user, "content": f"{said}\n\n{asked}"}, *rest]
    parts = [[{"type": "text", "text": one}] if isinstance(one, str) else list(one) for one in (said, asked)]
    return [{**user, "content": [*parts[0], *parts[1]]}, *rest]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
