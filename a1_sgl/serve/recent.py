"""The chains that were written last, and how fast: who wrote how much of each, and not a word of what."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from a1_sgl.types import (
    AuditEvent,
    CalibrationEvent,
    ChainEvent,
    ChunkEvent,
    DropEvent,
    Event,
    Listener,
    LostEvent,
    PromptEvent,
    VerdictEvent,
    calls_of,
)

CHAINS = 50
"""Chains that are kept when they are over."""
OPEN = 1000
"""Chains that are followed while they are written; of more, the oldest is followed no longer."""
CHUNKS = 200
"""Chunks of a chain that are kept one by one; later ones are summed by author."""
WINDOW = 30
"""Seconds over which tokens a second are counted."""


@dataclass
class Written:
    """A chain as it is told of: lengths and authors, no text.

    Attributes:
        model: what the request asked for.
        sample, of: its number, from 0, among how many.
        started: seconds since the epoch.
        seconds: how long it took; None while it is written.
        ending: how it ended; None while it is written. ``lost`` broke off, ``aborted`` was stopped from outside.
        chunks: author, tokens, and whether the author took over with it.
        later: tokens by author beyond `CHUNKS`.
        take_overs: chunks that were handed over.
        dropped: tokens that were written and are not in it.
    """

    model: str
    sample: int
    of: int
    started: float
    seconds: float | None = None
    ending: str | None = None
    chunks: list[tuple[str, int, bool]] = field(default_factory=list)
    later: Counter[str] = field(default_factory=Counter)
    take_overs: int = 0
    dropped: int = 0
    _handed: bool = False

    def hear(self, event: Event) -> None:
        """Takes an event of the chain."""
        if isinstance(event, ChunkEvent):
            if len(self.chunks) < CHUNKS and not self.later:
                self.chunks.append((event.author, event.tokens, self._handed))
            else:
                self.later[event.author] += event.tokens
            self._handed = False
        elif isinstance(event, VerdictEvent):
            self.take_overs += event.take_over
            self._handed = event.take_over
        elif isinstance(event, DropEvent):
            self.dropped += event.tokens
            if not event.calls:  # else it had not become a chunk
                self._take_out(event.author, event.tokens)

    def end(self, ending: str, started: float | None, ended: float) -> None:
        """It is over."""
        self.started = self.started if started is None else started
        self.ending, self.seconds = ending, max(0.0, ended - self.started)

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        tokens: Counter[str] = Counter(self.later)
        for author, count, _ in self.chunks:
            tokens[author] += count
        return {
            "model": self.model, "sample": self.sample, "of": self.of, "started": self.started,
            "seconds": self.seconds, "ending": self.ending, "tokens": dict(sorted(tokens.items())),
            "take_overs": self.take_overs, "dropped": self.dropped, "chunks": [list(one) for one in self.chunks],
            "later": dict(self.later),
        }  # fmt: skip

    def _take_out(self, author: str, tokens: int) -> None:
        """The last chunk of so many tokens, or else what there is of them at the end."""
        if self.later[author]:
            self.later[author] = max(0, self.later[author] - tokens)
            self.later += Counter()  # what is 0 goes
            return
        mine = [i for i, one in enumerate(self.chunks) if one[0] == author]
        if mine:
            same = [i for i in mine if self.chunks[i][1] == tokens]
            del self.chunks[(same or mine)[-1]]


class Recent:
    """Hears what the programs do. What it keeps is bounded, however many chains there are and however long they get."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.since = clock()
        self._clock = clock
        self._over: deque[Written] = deque(maxlen=CHAINS)
        self._open: OrderedDict[tuple[str, int], Written] = OrderedDict()
        self._seconds: deque[tuple[int, Counter[str]]] = deque()

    def listener(self, model: str, chains: int) -> Listener:
        """What hears a run of that model, of so many chains."""

        def hear(event: Event) -> None:
            self._count(event)
            if (
                isinstance(event, PromptEvent | CalibrationEvent | AuditEvent)
                or (sample := getattr(event, "sample", None)) is None
            ):
                return
            key = (event.question, sample)
            if (chain := self._open.get(key)) is None:
                if isinstance(event, DropEvent):  # may come after the chain's end
                    return
                chain = self._open[key] = Written(model, sample, chains, self._clock())
                if len(self._open) > OPEN:
                    self._close(next(iter(self._open)), "aborted")
            chain.hear(event)
            if isinstance(event, ChainEvent):
                chain.take_overs = event.take_overs
                self._close(key, event.ending, event.started, event.ended)
            elif isinstance(event, LostEvent):
                self._close(key, "lost")

        return hear

    def over(self, question: str) -> None:
        """Nothing more is heard of a question: chains of it that did not end were stopped from outside."""
        for key in [one for one in self._open if one[0] == question]:
            self._close(key, "aborted")

    def chains(self) -> list[dict[str, Any]]:
        """The last ones, the newest first; those that are being written before those that are over."""
        return [one.shown() for one in self._newest()]

    def tokens_a_second(self) -> dict[str, float]:
        """By runtime, of the calls that ended within the last `WINDOW` seconds."""
        now = self._clock()
        self._forget(int(now))
        total: Counter[str] = Counter()
        for _, counts in self._seconds:
            total.update(counts)
        span = min(WINDOW, max(1.0, now - self.since))
        return {runtime: count / span for runtime, count in total.items()}

    # --- inside -----------------------------------------------------------------------------------------------

    def _newest(self) -> Iterator[Written]:
        most = CHAINS
        for chains in (self._open.values(), self._over):
            for one in reversed(chains):
                if not most:
                    return
                most -= 1
                yield one

    def _close(
        self, key: tuple[str, int], ending: str, started: float | None = None, ended: float | None = None
    ) -> None:
        chain = self._open.pop(key)
        chain.end(ending, started, self._clock() if ended is None else ended)
        self._over.append(chain)

    def _count(self, event: Event) -> None:
        for call in calls_of([event]):
            if call.completion_tokens:
                second = int(self._clock())
                if not self._seconds or self._seconds[-1][0] != second:
                    self._forget(second)
                    self._seconds.append((second, Counter()))
                self._seconds[-1][1][call.runtime] += call.completion_tokens

    def _forget(self, second: int) -> None:
        while self._seconds and self._seconds[0][0] <= second - WINDOW:
            self._seconds.popleft()
