"""Lanes: how many chains run at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Lanes:
    """At most `limit` chains at once, whatever their question; the rest start in order as lanes come free.

    No chain waits for another one's turn: a lane is left only when its chain has ended.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"at least one chain must be in flight, not {limit}")
        self.limit = limit
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="chain")

    def each(self, body: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Runs `body` on every item in a lane of its own and returns the results in order."""
        return list(self._pool.map(body, items))

    def close(self) -> None:
        """Waits for running chains, starts no others."""
        self._pool.shutdown(cancel_futures=True)
