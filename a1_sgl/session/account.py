"""The account of a question: what happened, what it cost, and what was written in vain."""

from __future__ import annotations

from collections import Counter

from a1_sgl.engine import Spent
from a1_sgl.types import Call, CallKind, Chunk, DropEvent, DropReason, Event, Listener, Question, Usage


class Account:
    """Where the chains of a question report. Everything it is told goes to the listener at once.

    A chunk may be in several branches. It is dropped when the last of them lets it go, and never if a chain that ended
    has it: so what survives somewhere is not counted as written in vain.

    Attributes:
        events: what it was told.
        calls: every request that was made, whether an event has told of it yet or not.
    """

    def __init__(self, question: Question, listener: Listener | None) -> None:
        self.question = question
        self.events: list[Event] = []
        self.calls: list[Call] = []
        self._listener = listener
        self._holders: Counter[int] = Counter()
        self._chunks: dict[int, Chunk] = {}  # so that an id stays a chunk's own

    def tell(self, event: Event) -> None:
        """Something happened."""
        self.events.append(event)
        if self._listener is not None:
            self._listener(event)

    def call(self, spent: Spent, role: str, kind: CallKind) -> Call:
        """The record of a request, which whoever made it tells of in an event."""
        self.calls.append(call(spent, role, kind))
        return self.calls[-1]

    @property
    def usage(self) -> Usage:
        """What all of it cost."""
        return Usage.of(self.events)

    def hold(self, chunk: Chunk) -> None:
        """One more branch has `chunk`."""
        self._holders[id(chunk)] += 1
        self._chunks[id(chunk)] = chunk

    def let_go(self, chunk: Chunk, reason: DropReason, sample: int, turn: int) -> None:
        """A branch gives `chunk` up."""
        self._holders[id(chunk)] -= 1
        if not self._holders[id(chunk)]:
            del self._holders[id(chunk)], self._chunks[id(chunk)]
            self.tell(
                DropEvent(
                    question=self.question.id, sample=sample, turn=turn, author=chunk.author,
                    tokens=len(chunk.ids) + chunk.ended, reason=reason,
                )
            )  # fmt: skip

    def swap(self, old: Chunk, new: Chunk) -> None:
        """A branch has `new` in the place of `old`, of which it is what was kept."""
        self._holders[id(old)] -= 1
        if not self._holders[id(old)]:
            del self._holders[id(old)], self._chunks[id(old)]
        self.hold(new)

    def waste(self, call: Call, reason: DropReason, sample: int, turn: int) -> None:
        """A request was broken off: what it decoded is in no chunk."""
        self.tell(
            DropEvent(
                question=self.question.id, sample=sample, turn=turn, author=call.role, tokens=call.completion_tokens,
                reason=reason, calls=(call,),
            )
        )  # fmt: skip


def call(spent: Spent, role: str, kind: CallKind) -> Call:
    """The record of a request."""
    served = spent.served
    return Call(
        runtime=spent.runtime, role=role, kind=kind, prompt_tokens=spent.prompt_tokens,
        cached_tokens=spent.cached_tokens, completion_tokens=spent.completion_tokens, started=spent.started,
        ended=spent.ended, served_s=served.whole, queue_s=served.queue, prefill_s=served.prefill,
    )  # fmt: skip
