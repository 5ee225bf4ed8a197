"""An engine without a model, for tests: what it says, how long it takes and where it fails is scripted."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from a1_sgl.engine.codec import Codec
from a1_sgl.engine.protocol import Capabilities, Generation, Identity, Ids, Limits, Load, Request, Scores, Spent
from a1_sgl.errors import ChainAborted, RuntimeFault

T = TypeVar("T")
_RESERVE = 7
_BLOCK = 16
_BYTES = 4 * _BLOCK
_END = 256


class FakeTokenizer:
    """A token is a byte of UTF-8; beyond these there is the end token alone."""

    name_or_path = "fake"
    eos_token_id = _END
    chat_template = "{role}: {content}"
    is_fast = False

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """One id a byte."""
        return list(text.encode())

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`."""
        return bytes([one for one in ids if one < _END]).decode(errors="replace")

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], tokenize: bool = False, add_generation_prompt: bool = True
    ) -> str:
        """A line for each message, and the beginning of the assistant's."""
        return (
            "".join([f"{one['role']}: {one['content']}\n" for one in messages]) + "assistant: " * add_generation_prompt
        )

    def get_vocab(self) -> dict[str, int]:
        """What it is told apart from other tokenizers by."""
        return {f"<{i}>": i for i in range(_END + 1)}

    def __len__(self) -> int:
        return _END + 1


@dataclass(frozen=True)
class FakeCall:
    """A request to a `FakeEngine`.

    Attributes:
        kind: ``generate``, ``score``, ``next_token`` or ``prefill``.
        number: how many came before it.
        request: as it came.
        sampling: of a generation.
        start: where what is scored begins.
    """

    kind: str
    number: int
    request: Request
    sampling: Mapping[str, Any] = field(default_factory=dict)
    start: int = 0

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        return _text(self.request.ids)


class FakeEngine:
    """An `Engine` in this process. Its tokens are the bytes of a text, its prefix cache is as a radix cache would be.

    It writes scripted texts, a stop string and then an end token as a model would: cut at ``max_new_tokens``, after the
    first stop string, where the context is full, else ended. What a real runtime refuses it refuses: an empty prompt,
    one that is too long, an id outside the vocabulary.

    Attributes:
        calls: the requests so far, in the order they came.
    """

    def __init__(
        self, texts: str | Sequence[str] | Callable[[FakeCall], str] = "The answer is \\boxed{42}.", *,
        scores: float | Sequence[float] | Callable[[str, str], float | Sequence[float]] = -0.5,
        choices: float | Callable[[str, str], float] = -2.3,
        own: float | Callable[[FakeCall, str], float | Sequence[float]] = -0.3,
        first: Sequence[float] | Callable[[FakeCall], Sequence[float]] = (-0.3, -2.0),
        delay: float | Callable[[FakeCall], float] = 0.0, token_delay: float = 0.0,
        faults: Exception | Sequence[Exception | None] | Callable[[FakeCall], Exception | None] | None = None,
        name: str = "fake", model: str = "fake", context: int = 65_536, cache: bool = True, remember: bool = True,
    ) -> None:  # fmt: skip
        """
        Args:
            texts: what generations write: one text, texts in the order they are asked for (then the last one for ever),
                or a function of the call.
            scores: log-probability of every token that is scored; one for each request, in the order they come (then
                the last one for ever); or a function of the text before and the text scored to one value or one for
                each of its bytes.
            choices: log-probability of every next token, or a function of the prompt and the token's text.
            own: log-probability of every token that is written, where a request asks for them; or a function of the
                call and the text to one value or one for each of its bytes, an end token being as likely as the last.
            first: log-probabilities of the likeliest tokens at the first place, the likeliest first, or a function of
                the call.
            delay: seconds that a call takes, or a function of the call.
            token_delay: seconds more for each token that is written.
            faults: what is raised by every call; by each of the first ones, where it is not None; or a function of the
                call, which is asked before it is answered.
            name, model: what it is called and what it seems to serve.
            context: longest sequence, in tokens.
            cache: whether it has a prefix cache; keeping account of one takes time that grows with the prompt.
            remember: whether `calls` are kept.
        """
        self.name = name
        self.codec = Codec(FakeTokenizer())
        self.limits = Limits(context, context - _RESERVE, _END + 1)
        self.capabilities = Capabilities(seeds=True, images=False)
        self.identity = Identity(model, hashlib.sha256(model.encode()).hexdigest()[:16])
        self.available = True
        self.calls: list[FakeCall] = []
        self.running = 0
        self._texts: Callable[[FakeCall], str]
        if callable(texts):
            self._texts = texts
        else:
            script = _script([texts] if isinstance(texts, str) else texts)
            self._texts = lambda call: next(script)
        self._scores: Callable[[str, str], float | Sequence[float]] | float
        if isinstance(scores, Sequence):
            values = _script(scores)
            self._scores = lambda before, chunk: next(values)
        else:
            self._scores = scores
        self._own, self._first = own, first
        self._choices, self._delay, self._token_delay, self._faults = choices, delay, token_delay, faults
        self._number = 0
        self._under_way: set[Callable[[], None]] = set()
        self._remember, self._caches = remember, cache
        self._cache: set[int] = set()

    @property
    def load(self) -> Load:
        """What it has to do; nothing waits."""
        return Load(self.running, 0)

    # --- requests ---------------------------------------------------------------------------------------------

    async def generate(self, request: Request, sampling: Mapping[str, Any]) -> Generation:
        """As in `Engine`."""
        call, started = self._begin("generate", request, sampling=sampling), time.time()
        text, ended = _cut(self._texts(call), sampling, self.limits.context - len(request.ids) - 2)
        blocks, cached = self._find(request.ids, len(request.ids) - 1)
        ids = _ids(text)
        share = await self._pass(call, len(ids) + ended)
        aborted = share < 1.0
        if aborted:
            ids = ids[: int(share * len(ids))]
            text, ended = self.codec.decode(ids), False
        if self._caches:
            rest = np.concatenate([request.ids[_BLOCK * len(blocks) :], ids]).astype(np.int32)
            self._cache.update(blocks, _blocks(rest, blocks[-1] if blocks else 0))
        spent = self._spend(request, started, cached, len(ids) + ended)
        own, first = self._sampled(call, text, len(ids), ended)
        return Generation(text, tuple(ids), ended, aborted, spent, logprobs=own, first=first)

    async def stream(self, request: Request, sampling: Mapping[str, Any]) -> AsyncIterator[str | Generation]:
        """As in `Engine`, in two pieces."""
        generation = await self.generate(request, sampling)
        half = len(generation.text) // 2
        for piece in (generation.text[:half], generation.text[half:]):
            if piece:
                yield piece
        yield generation

    async def score(self, request: Request, start: int) -> Scores:
        """As in `Engine`."""
        if not 1 <= start < len(request.ids):
            raise ValueError(f"a score needs a prefix and a chunk, not {start} and {len(request.ids) - start} tokens")
        call, started = self._begin("score", request, start=start), time.time()
        found: Any = self._scores
        if callable(found):
            found = found(_text(request.ids[:start]), _text(request.ids[start:]))
        count = len(request.ids) - start
        values = [float(found)] * count if isinstance(found, int | float) else [float(one) for one in found]
        if len(values) == count - 1 and int(request.ids[-1]) == _END:  # of the text; the end token is as likely
            values.append(values[-1])
        if len(values) != count or not all(map(math.isfinite, values)):
            raise RuntimeFault(f"{self}: asked for {count} scores, the script has {values}")
        return Scores(tuple(values), await self._prefilled(call, started, start - 1))

    async def next_token(self, request: Request, choices: Sequence[int]) -> Scores:
        """As in `Engine`."""
        for one in choices:
            if not 0 <= one < self.limits.vocabulary:
                raise RuntimeFault(f"{self}: token id {one} is outside its vocabulary of {self.limits.vocabulary}")
        call, started, found = self._begin("next_token", request), time.time(), self._choices
        if callable(found):
            values = [float(found(call.prompt, self.codec.decode([one]))) for one in choices]
        else:
            values = [float(found)] * len(choices)
        return Scores(tuple(values), await self._prefilled(call, started, len(request.ids) - 1))

    async def prefill(self, request: Request) -> Spent:
        """As in `Engine`."""
        call, started = self._begin("prefill", request), time.time()
        return await self._prefilled(call, started, len(request.ids) - 1)

    async def flush(self) -> None:
        """Empties the prefix cache; refuses while requests run."""
        if self.running:
            raise RuntimeFault(f"{self}: {self.running} requests are under way")
        self._cache.clear()

    async def close(self) -> None:
        """Aborts requests under way; there is nothing to give back, and it can be used again."""
        for end in list(self._under_way):
            end()
        while self._under_way:
            await asyncio.sleep(0)

    def __str__(self) -> str:
        return f"{self.name} fake"

    # --- inside -----------------------------------------------------------------------------------------------

    def _sampled(
        self, call: FakeCall, text: str, count: int, ended: bool
    ) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """What the runtime says of the tokens that it wrote, where it was asked."""
        if (likeliest := call.request.logprobs) is None:
            return None, None
        found = self._own(call, text) if callable(self._own) else self._own
        values = [float(found)] * count if isinstance(found, int | float) else [float(one) for one in found]
        if len(values) != count or not all(map(math.isfinite, values)):
            raise RuntimeFault(f"{self}: {count} tokens were written, the script has log-probabilities {values}")
        if ended:
            values.append(values[-1] if values else 0.0)
        first = self._first(call) if callable(self._first) else self._first
        return tuple(values), tuple(first)[:likeliest] if likeliest and values else None

    def _begin(
        self, kind: str, request: Request, *, sampling: Mapping[str, Any] | None = None, start: int = 0
    ) -> FakeCall:
        ids = request.ids
        request.scope.check()
        if not len(ids):
            raise RuntimeFault(f"{self}: nothing to continue, the prompt is empty")
        if int(ids.min()) < 0 or int(ids.max()) >= self.limits.vocabulary:
            raise RuntimeFault(f"{self}: a token id is outside its vocabulary of {self.limits.vocabulary}")
        if len(ids) > self.limits.longest_prompt:
            raise RuntimeFault(f"{self}: {len(ids)} prompt tokens, and it admits {self.limits.longest_prompt}")
        call = FakeCall(kind, self._number, request, sampling or {}, start)
        self._number += 1
        if self._remember:
            self.calls.append(call)
        if (fault := self._fault(call)) is not None:
            raise fault
        if (most := call.sampling.get("max_new_tokens")) is not None and most < 0:
            raise RuntimeFault(f"{self}: max_new_tokens must be at least 0, not {most}")
        warmth = call.sampling.get("temperature", 1.0)
        if not isinstance(warmth, int | float) or not warmth >= 0:
            raise RuntimeFault(f"{self}: temperature must be a number of at least 0, not {warmth!r}")
        return call

    def _fault(self, call: FakeCall) -> Exception | None:
        if self._faults is None or isinstance(self._faults, Exception):
            return self._faults
        if isinstance(self._faults, Sequence):
            return self._faults[call.number] if call.number < len(self._faults) else None
        return self._faults(call)

    async def _pass(self, call: FakeCall, written: int = 0) -> float:
        """Lets the call's time pass; the share of it that passed before it was stopped, 1 if it was not."""
        seconds = self._delay(call) if callable(self._delay) else self._delay
        seconds += self._token_delay * written
        over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def end(stopped: bool = True) -> None:
            if not over.done():
                over.set_result(stopped)

        handle, began = call.request.scope.enter(end), time.monotonic()
        timer = asyncio.get_running_loop().call_later(seconds, end, False)
        self.running += 1
        self._under_way.add(end)
        try:
            stopped = await over
        finally:
            self.running -= 1
            self._under_way.discard(end)
            timer.cancel()
            call.request.scope.leave(handle)
        return min(0.99, (time.monotonic() - began) / seconds if seconds else 0.0) if stopped else 1.0

    async def _prefilled(self, call: FakeCall, started: float, most: int) -> Spent:
        blocks, cached = self._find(call.request.ids, most)
        stopped = await self._pass(call) < 1.0
        spent = self._spend(call.request, started, cached, 0)
        if stopped:
            raise ChainAborted(f"{self}: stopped", spent)
        self._cache.update(blocks)
        return spent

    def _find(self, ids: Ids, most: int) -> tuple[list[int], int]:
        """The prompt's blocks, and how many of its tokens are cached, `most` of which are of use."""
        if not self._caches:
            return [], 0
        blocks = _blocks(ids)
        known = next((i for i, block in enumerate(blocks) if block not in self._cache), len(blocks))
        return blocks, min(_BLOCK * known, most)

    def _spend(self, request: Request, started: float, cached: int, written: int) -> Spent:
        return Spent(self.name, len(request.ids), cached, written, started, time.time())


def _script(entries: Sequence[T]) -> Iterator[T]:
    """The entries in their order, and then the last one for ever."""
    if not entries:
        raise ValueError("what a fake engine is scripted with needs at least one entry")
    return itertools.chain(entries, itertools.repeat(entries[-1]))


def _blocks(ids: Ids, known: int = 0) -> list[int]:
    """A hash for each whole block of `ids` and all before it, which `known` is the hash of."""
    data, found = ids.astype(np.int32, copy=False).tobytes(), []
    for i in range(0, len(data) - _BYTES + 1, _BYTES):
        known = hash((known, data[i : i + _BYTES]))
        found.append(known)
    return found


def _cut(text: str, sampling: Mapping[str, Any], room: int) -> tuple[str, bool]:
    """What of `text` is written where there is room for so many tokens, and whether its end is reached."""
    ended = True
    stops = sampling.get("stop") or ()
    ends = [at + len(stop) for stop in ([stops] if isinstance(stops, str) else stops) if (at := text.find(stop)) != -1]
    if ends:
        text, ended = text[: min(ends)], False
    asked = sampling.get("max_new_tokens")
    most = room if asked is None else min(asked, room)
    if len(data := text.encode()) + ended > most:
        text, ended = data[:most].decode(errors="ignore"), False  # a character torn at the end is taken back
    return text, ended


def _ids(text: str) -> list[int]:
    return list(text.encode())


def _text(ids: Ids) -> str:
    return bytes(ids[ids < _END].astype(np.uint8)).decode(errors="replace")
