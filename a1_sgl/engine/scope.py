"""Scopes: requests under way that can be stopped together, a chain's, a question's, a backend's."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from a1_sgl.engine.loop import soon
from a1_sgl.errors import ChainAborted

_handles = itertools.count()


class Scope:
    """A set of requests under way; once stopped, it takes no more. What stops a scope stops those within it.

    `stop` may be called from any thread; everything else happens on the event loop.
    """

    __slots__ = ("_line", "_open", "_stopped")

    def __init__(self, *around: Scope) -> None:
        """
        Args:
            around: the scopes that this one lies within.
        """
        self._stopped = False
        self._open: dict[int, Callable[[], None]] = {}
        self._line: tuple[Scope, ...] = tuple(dict.fromkeys((self, *(one for s in around for one in s._line))))

    @property
    def stopped(self) -> bool:
        """Whether it, or a scope around it, was stopped."""
        return any([scope._stopped for scope in self._line])

    def check(self) -> None:
        """Raises ChainAborted if it was stopped."""
        if self.stopped:
            raise ChainAborted("stopped")

    def enter(self, abort: Callable[[], None]) -> int:
        """Takes note of something under way that `abort` ends, and returns a handle for `leave`.

        Raises:
            ChainAborted: the scope was stopped before.
        """
        self.check()
        handle = next(_handles)
        for scope in self._line:
            scope._open[handle] = abort
        return handle

    def leave(self, handle: int) -> None:
        """It is over."""
        for scope in self._line:
            scope._open.pop(handle, None)

    def stop(self) -> None:
        """Aborts everything under way, and refuses what comes after."""
        self._stopped = True
        soon(self._abort)

    def _abort(self) -> None:
        for abort in list(self._open.values()):
            abort()
