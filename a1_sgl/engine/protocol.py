"""What A1 needs from a runtime, and nothing else.

An `Engine` takes token ids and gives typed, checked records; it knows nothing of chains, gates and programs. Whatever
an implementation is told by its runtime it validates once, so that what is missing, malformed or not a number is a
`RuntimeFault` here and never a surprise further up.

All coroutines run on the loop of `a1_sgl.engine.loop`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from a1_sgl.engine.codec import Codec
from a1_sgl.engine.scope import Scope

Ids = NDArray[np.int32]
"""Token ids, one dimension. Four bytes a token: a chain of 30,000 is 120 KB."""


class Route(NamedTuple):
    """Where a request belongs: requests of one chain share a prefix, and so do chains of one question."""

    question: str = ""
    chain: str = ""


NOWHERE = Route()
"""Of a request that shares nothing with another."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and what goes with it.

    Attributes:
        ids: the prompt, shape (n,), n >= 1.
        scope: what may stop the request.
        route: which runtime of several should serve it.
        images: as the runtime takes them: URLs, paths it can read, or base64.
        image_tokens: how many tokens the images add to the prompt.
        priority: its place in the runtime's queue, where that has an order: below 0 after what has none, above it
            before. None is what the runtime gives.
        logprobs: of a generation, whether it is to come with the log-probabilities of its tokens: None for no, else
            how many of the likeliest ones at its first place are wanted too, 0 for none.
    """

    ids: Ids
    scope: Scope = field(default_factory=Scope)
    route: Route = NOWHERE
    images: tuple[str, ...] = ()
    image_tokens: int = 0
    priority: int | None = None
    logprobs: int | None = None


class Served(NamedTuple):
    """Where a request's time went inside the runtime, in seconds; None for what it does not tell.

    Attributes:
        whole: from its arrival to its answer.
        queue: until it was first computed.
        prefill: until its prompt was computed, after that.
    """

    whole: float | None = None
    queue: float | None = None
    prefill: float | None = None


UNTOLD = Served()


class Spent(NamedTuple):
    """What one request cost, as the runtime accounted for it; `started` and `ended` are seconds since the epoch."""

    runtime: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    started: float
    ended: float
    served: Served = UNTOLD


@dataclass(frozen=True, slots=True)
class Generation:
    """What a runtime wrote.

    Attributes:
        text: what it says, with a stop string it ended at, without an end token or a character torn at the end.
        ids: the ids of exactly that text.
        ended: whether the model ended its turn (an end token was sampled).
        aborted: whether it was stopped before its end; it is then what there was so far.
        spent: what it cost.
        meta: whatever else the runtime said, such as log-probabilities that a program asked for.
        logprobs: where the request asked for them, log-probabilities of its tokens as the runtime that sampled them
            gives them: one for each of `ids`, then one for the end token if that was sampled. Those of a generation
            that was aborted go as far as they are known. They are at temperature 1 or at the sampling temperature, as
            the runtime was started.
        first: in the same way, log-probabilities of the likeliest tokens at its first place, where some were asked for
            and a token was written.
    """

    text: str
    ids: tuple[int, ...]
    ended: bool
    aborted: bool
    spent: Spent
    meta: Mapping[str, Any] = field(default_factory=dict)
    logprobs: tuple[float, ...] | None = None
    first: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities at temperature 1, all finite, and what they cost."""

    logprobs: tuple[float, ...]
    spent: Spent


@dataclass(frozen=True, slots=True)
class Limits:
    """What a runtime admits.

    Attributes:
        context: longest sequence, in tokens.
        longest_prompt: longest prompt that is admitted, in tokens.
        vocabulary: ids lie in [0, vocabulary).
    """

    context: int
    longest_prompt: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a runtime can do beyond the contract: honour seeds, take images. None where it does not say."""

    seeds: bool | None = None
    images: bool | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What a runtime serves.

    Attributes:
        model: its path or hub name, as the runtime knows it.
        model_sha256: of the model's files, where this machine can read them; else of its name.
        parameters: how many the model has; None where the files are not on this machine.
    """

    model: str
    model_sha256: str
    parameters: int | None = None


class Load(NamedTuple):
    """What one runtime has to do for this process. An engine that can tell it has it as its `load`.

    Attributes:
        under_way: requests that were sent and are not answered.
        waiting: those that wait here: for a place among these, for a pause to pass, or for the runtime to come back.
        most: of those under way; less than was asked for while the runtime refuses some. None is no limit.
    """

    under_way: int
    waiting: int
    most: int | None = None


class Engine(Protocol):
    """A runtime, or several behind one contract.

    Every request may raise:

    - RuntimeFault: the runtime cannot be reached for longer than it is waited for, refuses the request, or keeps
      answering without what was asked for.
    - ChainAborted: `Request.scope` was stopped; `ChainAborted.spent` is what the runtime accounted for, if it answered.
      A `generate` that was stopped under way returns what there is, with `Generation.aborted`.
    """

    name: str
    """What errors and records call it."""

    @property
    def codec(self) -> Codec:
        """Its tokenizer and chat template."""
        ...

    @property
    def limits(self) -> Limits:
        """What it admits."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What else it can do."""
        ...

    @property
    def identity(self) -> Identity:
        """What it serves."""
        ...

    @property
    def available(self) -> bool:
        """False while it is known to be down."""
        ...

    async def generate(self, request: Request, sampling: Mapping[str, Any]) -> Generation:
        """Continues the prompt. `sampling` has SGLang's names: ``max_new_tokens``, ``temperature``, ``stop``, ..."""
        ...

    def stream(self, request: Request, sampling: Mapping[str, Any]) -> AsyncIterator[str | Generation]:
        """Like `generate`, in pieces of text as they come; the last item is the `Generation`."""
        ...

    async def score(self, request: Request, start: int) -> Scores:
        """Log-probability of each of ``request.ids[start:]`` given all before it: one prefill, nothing generated.

        Raises:
            ValueError: unless ``1 <= start < len(request.ids)``: there is nothing to condition on, or to score.
        """
        ...

    async def next_token(self, request: Request, choices: Sequence[int]) -> Scores:
        """Log-probability of each of `choices` as the token after the prompt: one prefill."""
        ...

    async def prefill(self, request: Request) -> Spent:
        """Computes the prompt, so that what follows finds it in the prefix cache."""
        ...

    async def flush(self) -> None:
        """Empties the prefix cache; a runtime may refuse while requests run."""
        ...

    async def close(self) -> None:
        """Gives connections back. Requests under way are aborted."""
        ...
