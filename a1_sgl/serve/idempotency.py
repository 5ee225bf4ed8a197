"""Retries that are told what the first try is told: it is joined while it runs, and its answer kept for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from a1_sgl.serve.refusals import Refusal

LONGEST = 255
"""Characters of a key."""


class Work(Protocol):
    """What can be joined."""

    @property
    def finished(self) -> float | None:
        """When it was over, by the monotonic clock; None while it runs."""
        ...

    @property
    def failed(self) -> bool:
        """Whether it came to nothing, so that it is worth another try."""
        ...

    @property
    def size(self) -> int:
        """Bytes that it keeps."""
        ...


W = TypeVar("W", bound=Work)


@dataclass
class _Kept(Generic[W]):
    digest: str
    work: W


class Store(Generic[W]):
    """Work by its owner and key, bounded in number, in bytes and in time.

    What is over goes, the oldest first, when there is no room; what runs never does, so that a full store of running
    work refuses.
    """

    def __init__(
        self, most: int = 1024, size: int = 64 << 20, seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._most, self._size, self._seconds, self._clock = most, size, seconds, clock
        self._kept: OrderedDict[tuple[str, str], _Kept[W]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, owner: str, key: str, digest: str) -> W | None:
        """The work of an earlier request with that key, if there is any that is worth joining.

        Raises:
            Refusal: the key is too long, or was used for another request.
        """
        if not 0 < len(key) <= LONGEST:
            raise Refusal(400, f"an Idempotency-Key has 1 to {LONGEST} characters", code="idempotency_key_invalid")
        self.sweep()
        kept = self._kept.get((owner, key))
        if kept is None:
            return None
        if kept.digest != digest:
            raise Refusal(
                422, "this Idempotency-Key was used for another request; a new request needs a new one",
                code="idempotency_key_reused",
            )  # fmt: skip
        if kept.work.failed:
            del self._kept[owner, key]
            return None
        return kept.work

    def room(self) -> None:
        """Makes room for one more.

        Raises:
            Refusal: 429; all of it runs.
        """
        self.sweep()
        while len(self._kept) >= self._most and self._drop():
            pass
        if len(self._kept) >= self._most:
            raise Refusal(
                429, "as many requests with an Idempotency-Key are running as can be kept", code="idempotency_full",
                retry_after=5,
            )  # fmt: skip

    def add(self, owner: str, key: str, digest: str, work: W) -> None:
        """Takes note of work, for which there is `room`."""
        self._kept[owner, key] = _Kept(digest, work)

    def sweep(self) -> None:
        """Lets go of what is too old, and of the oldest while there are too many bytes."""
        before = self._clock() - self._seconds
        for name, kept in list(self._kept.items()):
            if kept.work.finished is not None and kept.work.finished < before:
                del self._kept[name]
        while sum(kept.work.size for kept in self._kept.values()) > self._size and self._drop():
            pass

    def _drop(self) -> bool:
        for name, kept in self._kept.items():
            if kept.work.finished is not None:
                del self._kept[name]
                return True
        return False
