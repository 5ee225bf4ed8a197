"""Several runtimes of one model behind one contract."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from a1_sgl.engine.codec import Codec
from a1_sgl.engine.protocol import (
    Capabilities,
    Engine,
    Generation,
    Identity,
    Limits,
    Request,
    Route,
    Scores,
    Spent,
)
from a1_sgl.engine.scope import Scope
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault

T = TypeVar("T")
_SLACK = 8
"""Requests by which a question's runtime may be busier than the least busy one before its chains go there."""
_REMEMBERED = 65_536
"""Routes that are remembered; one that is forgotten costs a prefill."""
_LOOK = 0.5
"""Seconds between looks at whether a request's runtime is down."""


class Fleet:
    """An `Engine` of several runtimes. Each chain is kept on the runtime that holds its prefix.

    A question goes to the least busy runtime, and its chains go with it, unless that is so much busier that computing
    the prompt once more is cheaper than waiting. What is on a runtime that is down moves, and stays where it moved.
    """

    def __init__(self, members: Sequence[Engine], name: str) -> None:
        """
        Args:
            members: the runtimes; their names should differ, since records tell them apart by these.
            name: what to call all of them in errors.

        Raises:
            ConfigError: there are none, or they do not serve one model with one tokenizer.
        """
        if not members:
            raise ConfigError(f"the {name} fleet has no runtime")
        first = members[0]
        for other in members[1:]:
            if (other.identity.model_sha256, other.codec.key) != (first.identity.model_sha256, first.codec.key):
                raise ConfigError(
                    f"the {name} fleet must serve one model, not {first.identity.model} on {first.name} and "
                    f"{other.identity.model} on {other.name}"
                )
        self.name, self.members = name, tuple(members)
        self._busy = [0] * len(members)
        self._homes: OrderedDict[Route, int] = OrderedDict()

    @property
    def codec(self) -> Codec:
        """That of all of them."""
        return self.members[0].codec

    @property
    def limits(self) -> Limits:
        """What every one of them admits."""
        limits = [member.limits for member in self.members]
        return Limits(
            min(one.context for one in limits), min(one.longest_prompt for one in limits),
            min(one.vocabulary for one in limits),
        )  # fmt: skip

    @property
    def capabilities(self) -> Capabilities:
        """What every one of them can do."""
        found = [member.capabilities for member in self.members]
        return Capabilities(_all([one.seeds for one in found]), _all([one.images for one in found]))

    @property
    def identity(self) -> Identity:
        """That of all of them."""
        return self.members[0].identity

    @property
    def available(self) -> bool:
        """False while all of them are known to be down."""
        return any(member.available for member in self.members)

    # --- requests ---------------------------------------------------------------------------------------------

    async def generate(self, request: Request, sampling: Mapping[str, Any]) -> Generation:
        """As in `Engine`."""
        return await self._served(request, lambda engine, asked: engine.generate(asked, sampling))

    async def stream(self, request: Request, sampling: Mapping[str, Any]) -> AsyncIterator[str | Generation]:
        """As in `Engine`. A stream that has begun does not move."""

        async def begun(engine: Engine, asked: Request) -> tuple[Engine, Any, Any]:
            pieces: Any = engine.stream(asked, sampling)
            try:
                piece = await anext(pieces)
                if isinstance(piece, Generation) and piece.aborted and not request.scope.stopped:
                    asked.scope.check()  # it is to move
                return engine, piece, pieces
            except BaseException:
                await pieces.aclose()
                raise

        engine, first, pieces = await self._served(request, begun)
        at = self.members.index(engine)
        self._busy[at] += 1
        try:
            async with aclosing(pieces):
                yield first
                async for piece in pieces:
                    yield piece
        finally:
            self._busy[at] -= 1

    async def score(self, request: Request, start: int) -> Scores:
        """As in `Engine`."""
        return await self._served(request, lambda engine, asked: engine.score(asked, start))

    async def next_token(self, request: Request, choices: Sequence[int]) -> Scores:
        """As in `Engine`."""
        return await self._served(request, lambda engine, asked: engine.next_token(asked, choices))

    async def prefill(self, request: Request) -> Spent:
        """As in `Engine`."""
        return await self._served(request, lambda engine, asked: engine.prefill(asked))

    async def flush(self) -> None:
        """Empties all prefix caches; the first refusal is raised when all were asked."""
        await self._all(lambda member: member.flush())

    async def close(self) -> None:
        """Closes every one, and then raises the first error if there is one."""
        await self._all(lambda member: member.close())

    # --- inside -----------------------------------------------------------------------------------------------

    def _place(self, route: Route) -> int:
        """Where a request belongs."""
        up = [i for i, member in enumerate(self.members) if member.available] or list(range(len(self.members)))
        if (home := self._homes.get(route)) is None and route.chain:
            home = self._homes.get(Route(route.question))
            if home is not None and self._busy[home] > min(self._busy[i] for i in up) + _SLACK:
                home = None
        if home not in up:
            home = min(up, key=lambda i: self._busy[i])
        if route.question or route.chain:
            self._homes[route] = home
            self._homes.move_to_end(route)
            if len(self._homes) > _REMEMBERED:
                self._homes.popitem(last=False)
        return home

    async def _served(self, request: Request, ask: Callable[[Engine, Request], Awaitable[T]]) -> T:
        """The answer of the request's runtime, or of another one where that goes down meanwhile."""
        while True:
            at = self._place(request.route)
            member, scope = self.members[at], Scope(request.scope)
            self._busy[at] += 1
            task = asyncio.ensure_future(ask(member, replace(request, scope=scope)))
            try:
                while not task.done():
                    await asyncio.wait([task], timeout=_LOOK)
                    if not task.done() and self._better(member):
                        scope.stop()
                        await asyncio.wait([task])
                moves = self._better(member) and not request.scope.stopped
                try:
                    found = task.result()
                except RuntimeFault:
                    if moves:
                        continue
                    raise
                except ChainAborted:
                    if scope.stopped and not request.scope.stopped:
                        continue
                    raise
                if isinstance(found, Generation) and found.aborted and scope.stopped and not request.scope.stopped:
                    continue
                return found
            finally:
                self._busy[at] -= 1
                if not task.done():  # whoever asked was cancelled
                    task.cancel()
                    await asyncio.wait([task])
                    task.cancelled() or task.exception()

    def _better(self, member: Engine) -> bool:
        """Whether `member` is down and another one is not."""
        return not member.available and self.available

    async def _all(self, ask: Callable[[Engine], Awaitable[None]]) -> None:
        found = await asyncio.gather(*(ask(member) for member in self.members), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one


def _all(said: Sequence[bool | None]) -> bool | None:
    return False if False in said else None if None in said else True
