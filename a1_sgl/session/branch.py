"""A branch: one text, for a program as SGLang's state, for runtimes as ids."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

import sglang as sgl
from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.interpreter import ProgramState, StreamExecutor
from sglang.lang.ir import SglSamplingParams

from a1_sgl.engine import Engine, Generation, Ids, Request, wait
from a1_sgl.session.context import Context
from a1_sgl.session.frontend import sampling
from a1_sgl.session.transcript import Transcript

_CHUNK = "chunk"


class Branch:
    """A fork of a program's state whose expressions run at once, on the stack of whoever writes it.

    This module alone knows the inside of SGLang's executors. A branch owns its text: `transcript` has it with the ids
    of every runtime, `state` has it for SGLang's expressions, and the two say the same after every step.
    """

    __slots__ = ("_voice", "state", "transcript")

    def __init__(self, state: ProgramState, transcript: Transcript) -> None:
        """
        Args:
            state: what it is a fork of; sampling parameters come from there.
            transcript: its text so far.
        """
        source = state.stream_executor
        self.transcript = transcript
        self._voice = _Voice(source.chat_template)
        executor = StreamExecutor(
            self._voice, source.arguments, source.default_sampling_para, source.chat_template, False, use_thread=False
        )
        executor.text_ = transcript.text
        executor.fork_start_text_pos = len(executor.text_)
        self.state = ProgramState(executor)

    @property
    def endless(self) -> bool:
        """Whether the program was run with ``ignore_eos``: then what is written ends nothing."""
        return bool(self.state.stream_executor.default_sampling_para.ignore_eos)

    def fork(self) -> Branch:
        """Another branch that begins with this one's text; runtimes have it in their prefix caches."""
        return Branch(self.state, self.transcript)

    @property
    def stop(self) -> tuple[str, ...]:
        """Stop strings that the program was run with: they end chunks."""
        found = self.state.stream_executor.default_sampling_para.stop
        return (found,) if isinstance(found, str) else tuple(found or ())

    def generate(
        self, engine: Engine, context: Context, params: dict[str, Any], seed: int | None,
        heard: Callable[[str], None] | None = None,
    ) -> Generation:  # fmt: skip
        """`engine` continues the text; an aborted generation leaves it as it was. Errors as in `Engine`.

        Args:
            heard: told of each piece of text as it comes; then a generation that broke off is not repeated.
        """
        voice = self._voice
        voice.asked = (engine, context, self.transcript.ids(engine.codec), seed, heard)
        self.state += sgl.gen(_CHUNK, **params)
        generation, voice.heard = voice.heard, None
        assert generation is not None
        if generation.aborted:  # what it has so far is nobody's
            self.keep(len(self.transcript.pieces))
        else:
            self.transcript = self.transcript.plus(generation.text, {engine.codec.tokenizer_key: generation.ids})
        return generation

    def append(self, text: str, ids: dict[str, tuple[int, ...]] | None = None) -> None:
        """Adds `text`, with its ids where they are known."""
        self.state += text
        self.transcript = self.transcript.plus(text, ids)

    def keep(self, pieces: int) -> None:
        """Cuts the text after its first `pieces` pieces."""
        self.transcript = self.transcript.first(pieces)
        executor = self.state.stream_executor
        executor.text_ = executor.text_[: self.transcript.chars]


class _Voice(BaseBackend):  # type: ignore[misc]
    """SGLang's backend of one branch: whichever engine is to write the next chunk."""

    def __init__(self, chat_template: Any) -> None:
        self.chat_template = chat_template
        self.support_concate_and_append = False
        self.asked: tuple[Engine, Context, Ids, int | None, Callable[[str], None] | None] | None = None
        self.heard: Generation | None = None

    def generate(self, s: StreamExecutor, sampling_params: SglSamplingParams) -> tuple[str, dict[str, Any]]:
        assert self.asked is not None
        (engine, context, ids, seed, heard), self.asked = self.asked, None
        params = sampling(sampling_params)
        if seed is not None:
            params["sampling_seed"] = seed
        request = context.request(engine, ids)
        self.heard = wait(engine.generate(request, params) if heard is None else _heard(engine, request, params, heard))
        return self.heard.text, {}


async def _heard(
    engine: Engine, request: Request, params: dict[str, Any], heard: Callable[[str], None]
) -> Generation:  # fmt: skip
    found: Generation | None = None
    async with aclosing(cast(AsyncGenerator[str | Generation], engine.stream(request, params))) as pieces:
        async for piece in pieces:
            if isinstance(piece, Generation):
                found = piece
            else:
                heard(piece)
    assert found is not None
    return found
