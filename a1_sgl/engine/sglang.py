"""An SGLang runtime over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from a1_sgl.engine import answers
from a1_sgl.engine.answers import Answer, Unusable
from a1_sgl.engine.codec import Codec
from a1_sgl.engine.gateway import Worker
from a1_sgl.engine.protocol import Capabilities, Generation, Identity, Limits, Load, Request, Scores, Spent
from a1_sgl.engine.scope import Scope
from a1_sgl.engine.transport import Settings, Transport
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault

T = TypeVar("T")
_TORN = "\N{REPLACEMENT CHARACTER}"
_WHOLE_CHARACTER = 3  # a UTF-8 character has at most four bytes, so at most three tokens of a torn one
_FLUSHES = 20
"""Tries to empty a cache, spread over a second."""
_NOTHING = {"max_new_tokens": 0}
_Written = tuple[Answer, tuple[tuple[float, ...] | None, tuple[float, ...] | None]]


class SGLang:
    """An `Engine` that is one SGLang runtime, or SGLang's gateway before several.

    It sends token ids: what a runtime generated goes back to it unchanged, so that the next request's prefix is a cache
    hit to the last token. Stop strings stay in the text, since they stay in the ids.
    """

    def __init__(self, transport: Transport, info: Mapping[str, Any], context: int, tokenizer: Any) -> None:
        self.name = transport.name
        self.url = transport.url
        self.info = dict(info)
        self.codec = Codec(tokenizer)
        self._transport = transport
        self._model: str = info["model_path"]
        vocabulary = _vocabulary(self._model) or self.codec.size
        self.limits = Limits(context, context - answers.PROMPT_RESERVE, vocabulary)

    @classmethod
    async def connect(
        cls, url: str, name: str = "target", *, tokenizer: str | None = None, settings: Settings | None = None
    ) -> SGLang:
        """Connects and reads what the runtime, or what stands behind the gateway, serves.

        Args:
            url: where it listens, ``http://host:port``; an IPv6 address in brackets.
            name: what to call it in errors and records.
            tokenizer: folder or hub name of its tokenizer; by default the one the runtime names.

        Raises:
            ConfigError: a URL that is none, a tokenizer that cannot be loaded, or a gateway before several models.
            RuntimeFault: nothing answers there, or something that is no SGLang runtime for generation.
        """
        transport = Transport(url, name, settings or Settings())
        try:
            info = await _model(transport)
            if not isinstance(info, dict) or not isinstance(info.get("model_path"), str):
                raise RuntimeFault(
                    f"{transport}: what answers there is no SGLang runtime (no model_path in /get_model_info)"
                )
            if not info.get("is_generation", True):
                raise RuntimeFault(
                    f"{transport}: serves an embedding model, {info['model_path']}; a chain needs generation"
                )
            context = await _context(transport)
            path = tokenizer or info.get("tokenizer_path") or info["model_path"]
            return await asyncio.to_thread(cls._made, transport, info, context, path)
        except BaseException:
            await transport.close()
            raise

    @classmethod
    def _made(cls, transport: Transport, info: Mapping[str, Any], context: int, path: str) -> SGLang:
        made = cls(transport, info, context, _tokenizer(path, transport))
        # Seconds for Gemma's quarter of a million tokens, which the loop would wait for later.
        assert made.codec.key
        return made

    def __str__(self) -> str:
        return str(self._transport)

    @property
    def capabilities(self) -> Capabilities:
        """What it can do, as far as it says."""
        images = self.info.get("has_image_understanding")
        return Capabilities(seeds=None, images=images if isinstance(images, bool) else None)

    @cached_property
    def identity(self) -> Identity:
        """What it serves; the model's files are read once, where this machine has them."""
        return Identity(self._model, _model_hash(self._model), _parameters(self._model))

    @property
    def available(self) -> bool:
        """False while it is known to be down."""
        return self._transport.available

    @property
    def load(self) -> Load:
        """What it has to do for this process."""
        return self._transport.load

    @property
    def transport(self) -> Transport:
        """How it is spoken to."""
        return self._transport

    # --- requests ---------------------------------------------------------------------------------------------

    async def generate(self, request: Request, sampling: Mapping[str, Any]) -> Generation:
        """As in `Engine`. Keys of `sampling` that are the request's and not the sampling's, such as
        ``return_logprob``, are sent as such."""
        whole = self._payload(request, sampling, **_own(request))
        transport, longest = self._transport, int(sampling.get("max_new_tokens") or 0)

        def payload() -> Mapping[str, Any]:
            piece = transport.pace.piece(longest, transport.limit.busy)
            if piece is None:
                return whole
            return {**whole, "sampling_params": {**whole["sampling_params"], "stream_interval": piece}, "stream": True}

        written, started = await transport.call(payload, request.scope, self._writer(request), request.route)
        transport.pace.saw(written[0].completion_tokens, time.time() - started, transport.limit.busy + 1)
        return self._generation(written, started)

    async def stream(self, request: Request, sampling: Mapping[str, Any]) -> AsyncIterator[str | Generation]:
        """As in `Engine`. A stream that has begun is not repeated."""
        started, told, last = time.time(), "", None
        payload = self._payload(request, sampling, **_own(request))
        async with aclosing(self._transport.pieces(payload, request.scope, request.route)) as pieces:
            async for piece in pieces:
                last = piece
                text = self._partial(piece)
                if not text.endswith(_TORN) and len(text) > len(told):
                    yield text[len(told) :]
                    told = text
        if last is None:
            raise RuntimeFault(f"{self}: an empty stream")
        try:
            generation = self._generation(self._writer(request)(last), started)
        except Unusable as error:
            raise RuntimeFault(f"{self}: {error}") from error
        if len(generation.text) > len(told):
            yield generation.text[len(told) :]
        yield generation

    async def score(self, request: Request, start: int) -> Scores:
        """As in `Engine`."""
        count = len(request.ids) - start
        if start < 1 or count < 1:
            raise ValueError(f"a score needs a prefix and a chunk, not {start} and {count} tokens")
        # The first position asked for comes back without a value, and the prefix cache is used up to it only; so the
        # last token of the prefix is asked for as well, and no more.
        extra = {"return_logprob": True, "logprob_start_len": start - 1 + request.image_tokens}
        return await self._ask(request, extra, lambda answer: answers.scored(answer.meta, count))

    async def next_token(self, request: Request, choices: Sequence[int]) -> Scores:
        """As in `Engine`."""
        self._known(choices)
        extra = {"return_logprob": True, "token_ids_logprob": list(choices)}
        return await self._ask(request, extra, lambda answer: answers.next_token(answer.meta, choices))

    async def prefill(self, request: Request) -> Spent:
        """As in `Engine`."""
        return (await self._ask(request, {}, lambda answer: ())).spent

    async def flush(self) -> None:
        """Empties the prefix cache. A request that was stopped may still be in the runtime's current step.

        Raises:
            RuntimeFault: requests are under way, also a second later.
        """
        for _ in range(_FLUSHES):
            try:
                await self._transport.post("/flush_cache")
                return
            except RuntimeFault:
                await asyncio.sleep(1 / _FLUSHES)
        await self._transport.post("/flush_cache")

    async def server_info(self) -> Mapping[str, Any]:
        """The runtime's own account of its settings."""
        found = await self._transport.get("/server_info")
        return found if isinstance(found, dict) else {}

    async def workers(self) -> list[tuple[Worker, bool]]:
        """A gateway's workers, each with whether it can be reached from here, as aborts have to; none of a runtime."""
        workers = await self._transport.workers()
        found = await asyncio.gather(
            *(self._transport.get("/v1/models", one.url) for one in workers), return_exceptions=True
        )
        return [(one, not isinstance(said, BaseException)) for one, said in zip(workers, found, strict=True)]

    async def close(self) -> None:
        """Gives connections back."""
        await self._transport.close()

    # --- inside -----------------------------------------------------------------------------------------------

    def _payload(self, request: Request, sampling: Mapping[str, Any], **extra: Any) -> dict[str, Any]:
        ids = request.ids
        if not len(ids):
            raise RuntimeFault(f"{self}: nothing to continue, the prompt is empty")
        if int(ids.min()) < 0 or int(ids.max()) >= self.limits.vocabulary:
            self._known(ids)
        params = {name: value for name, value in sampling.items() if name not in _OF_REQUEST}
        asked = {name: value for name, value in sampling.items() if name in _OF_REQUEST}
        images = {"image_data": list(request.images)} if request.images else {}
        # A runtime without --enable-priority-scheduling takes no notice of it.
        priority = {} if request.priority is None else {"priority": request.priority}
        return {"input_ids": ids, "sampling_params": params, **images, **priority, **asked, **extra}

    def _known(self, ids: Iterable[int]) -> None:
        """An id outside the vocabulary kills the server, so it is stopped here."""
        for one in ids:
            if not 0 <= one < self.limits.vocabulary:
                raise RuntimeFault(f"{self}: token id {one} is outside its vocabulary of {self.limits.vocabulary}")

    async def _ask(self, request: Request, extra: dict[str, Any], read: Any) -> Scores:
        """A request that generates nothing."""
        payload = self._payload(request, _NOTHING, **extra)

        def checked(body: bytes) -> tuple[Answer, tuple[float, ...]]:
            answer = self._reader(request)(body)
            return answer, () if answer.aborted else read(answer)

        (answer, found), started = await self._transport.call(payload, request.scope, checked, request.route)
        spent = self._spent(answer, started)
        if answer.aborted:
            raise ChainAborted(f"{self}: stopped", spent)
        return Scores(found, spent)

    def _reader(self, request: Request) -> Any:
        def read(body: bytes) -> Answer:
            answer = answers.read(body)
            if answer.aborted and not request.scope.stopped:
                raise Unusable(f"the runtime gave up: {answer.message}")
            return answer

        return read

    def _writer(self, request: Request) -> Any:
        """Reads an answer and the log-probabilities that were asked for with it."""
        read = self._reader(request)

        def written(body: bytes) -> _Written:
            answer = read(body)
            return answer, (None, None) if request.logprobs is None else answers.sampled(answer, request.logprobs)

        return written

    def _partial(self, piece: bytes) -> str:
        try:
            found = answers.json(piece)
            text, ids = found.get("text"), found.get("output_ids")
        except (Unusable, AttributeError) as error:
            raise RuntimeFault(f"{self}: {error}") from error
        return self._whole(text, ids or ()) if isinstance(text, str) else ""

    def _whole(self, text: str, ids: Sequence[int]) -> str:
        """What `ids` say. SGLang reads them together with the prompt's last few: where these begin within a character,
        it takes whole ones that follow for torn."""
        return self.codec.decode(ids) if _TORN in text else text

    def _generation(self, written: _Written, started: float) -> Generation:
        """Without the end token, and without a character torn at the end."""
        answer, (own, first) = written
        ids, text = answer.ids, answer.text
        if answer.ended and ids and ids[-1] == answer.matched:
            ids = ids[:-1]
        text = self._whole(text, ids)
        if text.endswith(_TORN) and not answer.ended:
            for cut in range(1, min(_WHOLE_CHARACTER, len(ids) - 1) + 1):
                whole = self.codec.decode(ids[:-cut])
                if not whole.endswith(_TORN):
                    ids, text = ids[:-cut], whole
                    own = own and own[: len(ids)]
                    break
        return Generation(
            text, tuple(ids), answer.ended, answer.aborted, self._spent(answer, started), answer.meta, own, first
        )

    def _spent(self, answer: Answer, started: float) -> Spent:
        return Spent(
            self.name, answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens, started, time.time(),
            answers.served(answer.meta),
        )  # fmt: skip


def _own(request: Request) -> dict[str, Any]:
    """What asks for the log-probabilities of a generation's tokens. None of the prompt's are asked for with them, so
    that the prefix cache is used to the last token."""
    if request.logprobs is None:
        return {}
    return {"return_logprob": True} | ({"top_logprobs_num": request.logprobs} if request.logprobs else {})


_OF_REQUEST = frozenset(
    ("return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs", "token_ids_logprob")
)


async def _model(transport: Transport) -> Any:
    """What the runtime says of its model. A gateway may ask a worker that is down; then the others are asked."""
    try:
        return await transport.get("/get_model_info")
    except RuntimeFault as fault:
        for worker in await transport.workers():
            with suppress(RuntimeFault):
                return await transport.get("/get_model_info", worker.url)
        if " answered 404" in str(fault):
            raise RuntimeFault(
                f"{transport}: what answers there is no SGLang runtime (it has no /get_model_info)"
            ) from None
        raise


async def _context(transport: Transport) -> int:
    """Longest sequence the runtime takes, in tokens; of a gateway, which does not say, the shortest of its workers."""
    if (found := _longest(await transport.get("/v1/models"))) is not None:
        return found
    workers = await transport.workers()
    if len(models := sorted({one.model for one in workers if one.model})) > 1:
        raise ConfigError(
            f"{transport}: a gateway before several models, {' and '.join(models)}; draft and target need one each, "
            "or give the workers' own URLs"
        )
    asked = await asyncio.gather(
        *(transport.get("/v1/models", one.url) for one in workers), return_exceptions=True
    )  # those that cannot be reached from here have to be like the others
    known = [context for one in asked if (context := _longest(one)) is not None]
    if not known and workers and (context := await _refused(transport)) is not None:
        known = [context]
    if not known:
        raise RuntimeFault(f"{transport}: /v1/models names no max_model_len; is this an SGLang runtime?")
    return min(known)


_REFUSAL = 10.0
"""Seconds in which a worker refuses what is too long."""


async def _refused(transport: Transport) -> int | None:
    """The context as a worker names it when it refuses a generation that is too long for any.

    One that cuts such a wish short instead of refusing it is not waited for.
    """
    too_long = {"input_ids": np.zeros(1, np.int32), "sampling_params": {"max_new_tokens": 1 << 30}}
    scope = Scope()
    timer = asyncio.get_running_loop().call_later(_REFUSAL, scope.stop)
    try:
        await transport.call(too_long, scope, lambda body: body)
    except RuntimeFault as refusal:
        said = re.search(r"context length of (\d+) tokens", str(refusal))
        return int(said[1]) if said else None
    except ChainAborted:
        return None
    finally:
        timer.cancel()
    return None


def _longest(models: Any) -> int | None:
    try:
        return int(models["data"][0]["max_model_len"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _tokenizer(path: str, transport: Transport) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{transport}: its tokenizer {path!r} cannot be loaded here ({str(error).splitlines()[0]}); "
            "name a folder or hub model that this machine can read with tokenizer="
        ) from error


def _vocabulary(model: str) -> int | None:
    """Rows of the model's embedding, from its configuration where this machine can read it."""
    from transformers import AutoConfig

    try:
        return int(AutoConfig.from_pretrained(model).get_text_config().vocab_size)
    except (OSError, ValueError, AttributeError):
        return None


def _parameters(model: str) -> int | None:
    """How many parameters a model has, from the headers of its files; None where they are not on this machine."""
    from huggingface_hub import snapshot_download
    from safetensors import safe_open

    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(model, allow_patterns=["*.safetensors"], local_files_only=True))
        except (OSError, ValueError):
            return None
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total or None


def _model_hash(model: str) -> str:
    """Hash of a local model's files: configuration in full, weights in full up to 64 MB, else by name and size."""
    folder, digest = Path(model), hashlib.sha256()
    if not folder.is_dir():
        return hashlib.sha256(model.encode()).hexdigest()[:16]
    for file in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        size = file.stat().st_size
        digest.update(f"{file.name}/{size}".encode())
        if size <= 64 << 20:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
