"""Admission: how many chains are in flight at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TypeVar

from a1_sgl.engine import Scope
from a1_sgl.engine.loop import stack
from a1_sgl.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")


class Admission:
    """At most `limit` chains at once, whatever their question; the rest are admitted in order as places come free.

    No chain waits for another one's turn: a place is given back only when its chain has ended, or its step where the
    program's chains go from step to step together. A chain that itself runs a program lends its place to the chains of
    that one, so that they need none beyond it.
    """

    def __init__(self, limit: int) -> None:
        """Raises ConfigError for a limit below one."""
        if limit < 1:
            raise ConfigError(f"at least one chain must be in flight, not {limit}")
        self.limit = limit
        self._places = asyncio.Semaphore(limit)

    async def each(
        self, body: Callable[[T], R], items: Sequence[T], stop: Callable[[], None],
        scope: Callable[[T], Scope] | None = None,
    ) -> list[R]:  # fmt: skip
        """Runs `body` on every item, each on a stack of its own once it is admitted; the results, in order.

        Cancelled, it calls `stop` and waits for all of them to end.

        Args:
            scope: what may stop an item: then it waits for no place any more, and its body, which can do nothing, is
                run to see that.

        Raises:
            Exception: what the first `body` that failed raised, after all have ended.
        """

        async def admitted(item: T) -> R:
            place = _Place(self._places, Scope() if scope is None else scope(item))
            _HELD.set((*_HELD.get(), place))  # in this task's own context
            try:
                await place.take()
                return await stack(body, item)
            finally:
                place.leave()

        lent = [place for place in _HELD.get() if place.held and place.places is self._places]
        tasks = [asyncio.create_task(admitted(item)) for item in items]
        for place in lent:
            place.give()
        try:
            if tasks:
                await asyncio.wait(tasks)
        except asyncio.CancelledError:
            stop()
            while any(not task.done() for task in tasks):
                try:
                    await asyncio.wait(tasks)
                except asyncio.CancelledError:  # it has been heard
                    continue
            for task in tasks:
                task.cancelled() or task.exception()
            raise
        finally:
            for place in lent:
                await place.take()
        for task in tasks:  # one of them is raised; none is to be reported as forgotten
            task.cancelled() or task.exception()
        return [task.result() for task in tasks]


class _Place:
    """One of the places, as whatever runs in it holds it and lends it."""

    __slots__ = ("_over", "_scope", "held", "places")

    def __init__(self, places: asyncio.Semaphore, scope: Scope) -> None:
        self.places, self.held, self._over, self._scope = places, False, False, scope

    async def take(self) -> None:
        """Waits for it; what is over or stopped needs none."""
        if self._over or self._scope.stopped:
            return
        taking = asyncio.create_task(self._take())

        def end() -> None:
            taking.cancel()

        handle = self._scope.enter(end)
        try:
            await asyncio.wait([taking])
        finally:  # a place that has come is held, whatever became of this, and is given back as any other
            end()
            self._scope.leave(handle)
        if self._over:
            self.give()

    async def _take(self) -> None:
        await self.places.acquire()
        self.held = True

    def give(self) -> None:
        """Gives it back, if it is held."""
        if self.held:
            self.held = False
            self.places.release()

    def leave(self) -> None:
        """Gives it back for good."""
        self._over = True
        self.give()


_HELD: ContextVar[tuple[_Place, ...]] = ContextVar("a1_sgl.places", default=())
