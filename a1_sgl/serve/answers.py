"""OpenAI's response objects and the frames of a stream, made of what a run was."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from a1_sgl.engine import Codec
from a1_sgl.types import PROGRAM, Chunk, Ending

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
_FINISH: Mapping[Ending, str] = {"answered": "stop", "ended": "stop", "stop": "stop", "stopped": "stop"}


def finish_reason(ending: Ending) -> str:
    """OpenAI's word for how a chain ended: what was cut off, for want of tokens, turns or context, is ``length``."""
    return _FINISH.get(ending, "length")


@dataclass(frozen=True)
class Answer:
    """One of a request's answers.

    Attributes:
        index: its number.
        content, reasoning: what it says, and what led there.
        finish: OpenAI's finish reason.
        tokens: of all its chains, as the runtimes counted them.
        answering: of these, the content's.
        prompt, cached: tokens of the prompt as the writer's runtime counted them, and how many it had already.
        about: what goes into the ``a1`` block.
        calls: of tools.
    """

    index: int
    content: str
    reasoning: str
    finish: str
    tokens: int
    answering: int
    prompt: int
    cached: int
    about: Mapping[str, Any] = field(default_factory=dict)
    calls: tuple[dict[str, Any], ...] = ()


def tokens_after(chunks: Sequence[Chunk], at: int, codecs: Mapping[str, Codec]) -> int:
    """How many of the runtimes' tokens lie after character `at` of the chunks' text; nothing is tokenised again.

    Args:
        codecs: of each author.
    """
    found, begin = 0, 0
    for chunk in chunks:
        end = begin + len(chunk.text)
        if chunk.author == PROGRAM or end <= at:
            found += 0
        elif begin >= at:
            found += chunk.tokens
        else:
            found += chunk.tokens - len(chunk.ids) + _last(codecs[chunk.author], chunk.ids, end - at)
        begin = end
    return found


def _last(codec: Codec, ids: Sequence[int], chars: int) -> int:
    """How many of the last ids it takes to have so many characters: from the end, where answers are short."""
    least, most = 0, 1
    while most < len(ids) and len(codec.decode(ids[-most:])) < chars:
        least, most = most, 2 * most
    most = min(most, len(ids))
    while least + 1 < most:
        middle = (least + most) // 2
        if len(codec.decode(ids[-middle:])) < chars:
            least = middle
        else:
            most = middle
    return most


def usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """OpenAI's usage: the prompt once, however often it was asked; of the answers, all that is in a chain."""
    prompt = max((one.prompt for one in answers), default=0)
    written = sum(one.tokens for one in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": max((one.cached for one in answers), default=0)},
        "completion_tokens_details": {"reasoning_tokens": written - sum(one.answering for one in answers)},
    }


def about(answers: Sequence[Answer], gate: Mapping[str, Any] | None) -> dict[str, Any]:
    """The ``a1`` block: sums over the answers, and the gate as it stands."""
    found: dict[str, Any] = {}
    for one in answers:
        for name, value in one.about.items():
            if isinstance(value, Mapping):
                mine = found.setdefault(name, {})
                for key, count in value.items():
                    mine[key] = mine.get(key, 0) + count
            else:
                found[name] = found.get(name, 0) + value
    return {**found, "gate": gate}


class Response:
    """What all objects of one response have in common."""

    def __init__(self, request: str, model: str, chat: bool) -> None:
        self._chat = chat
        prefix, self._kind = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self._head = {"id": f"{prefix}-{request}", "created": int(time.time()), "model": model}

    def whole(self, answers: Sequence[Answer], gate: Mapping[str, Any] | None) -> dict[str, Any]:
        """The response in one piece."""
        choices = [self._choice(one) for one in sorted(answers, key=lambda one: one.index)]
        return {**self._head, "object": self._kind, "choices": choices, "usage": usage(answers),
                "a1": about(answers, gate)}  # fmt: skip

    def delta(self, index: int, delta: Mapping[str, Any], finish: str | None, counted: bool) -> bytes:
        """A frame of a stream; where usage will come, ``usage`` is null until then."""
        choice: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": None}
        choice |= {"delta": delta} if self._chat else {"text": delta.get("content", "")}
        more = {"usage": None} if counted else {}
        return frame({**self._head, "object": self._chunk, "choices": [choice], **more})

    def last(self, answers: Sequence[Answer], gate: Mapping[str, Any] | None) -> bytes:
        """The frame with the usage: no choices, and the last one but for the mark of the end."""
        return frame({**self._head, "object": self._chunk, "choices": [], "usage": usage(answers),
                      "a1": about(answers, gate)})  # fmt: skip

    @property
    def _chunk(self) -> str:
        return "chat.completion.chunk" if self._chat else self._kind

    def _choice(self, one: Answer) -> dict[str, Any]:
        head = {"index": one.index, "finish_reason": one.finish, "logprobs": None}
        if not self._chat:
            return {**head, "text": one.content}
        message: dict[str, Any] = {"role": "assistant", "content": one.content, "refusal": None}
        if one.reasoning:
            message["reasoning_content"] = one.reasoning
        if one.calls:
            message |= {"tool_calls": list(one.calls), "content": one.content or None}
        return {**head, "message": message}


def frame(content: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(content) + b"\n\n"
