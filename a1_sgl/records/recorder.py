"""The listener that writes a run as it happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from a1_sgl.errors import A1Error, RecordFault
from a1_sgl.records.folder import Finished, Name, RunFolder, stopped, unwritable
from a1_sgl.types import (
    AnswerEvent,
    AuditEvent,
    CalibrationEvent,
    ChainEvent,
    DropEvent,
    Event,
    LostEvent,
    PromptEvent,
    Usage,
    calls_of,
)


class Recorder:
    """Collects each chain's events and writes them together when the chain is finished. One thread calls it.

    Of a chain that breaks off its calls are written, so that what it cost is counted. `close` it, or leave its ``with``
    block, before the folder: that writes the calls of the chains that are under way.

    Attributes:
        lost: chains that broke off, or could not be recorded, with the reason.
    """

    def __init__(self, folder: RunFolder, on_chain: Callable[[Finished], None] | None = None) -> None:
        """
        Args:
            folder: opened, and told what is asked.
            on_chain: told of every chain that is on record, at once.
        """
        self.folder = folder
        self.lost: dict[Name, str] = {}
        self._on_chain = on_chain
        self._open: dict[Name, list[Event]] = {}
        self._faulty = False

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Takes one event.

        Raises:
            RecordFault: the folder cannot be written; the chain of this event is lost.
            A1Error: a question's own event cannot be written as it is.
        """
        if isinstance(event, AnswerEvent):  # follows from the chains, also of a run that was resumed
            return
        if isinstance(event, PromptEvent | CalibrationEvent):
            if (wrong := unwritable(event)) is not None:
                raise A1Error(f"question {event.question}: {event.event}.{wrong}, which cannot be recorded")
            self._append([event])
            return
        name = (event.question, event.sample)
        if isinstance(event, LostEvent):
            self._lose(name, [*self._open.pop(name, ()), event], event.error)
        elif isinstance(event, ChainEvent):
            self._finish(name, [*self._open.pop(name, ()), event], event)
        elif self.folder.has(*name):  # what a chain began and did not need, and its audits, are told of after its end
            if unwritable(event) is None:
                self._append([event])
        elif name in self.lost and name not in self._open and isinstance(event, DropEvent | AuditEvent):
            if calls_of([event]):  # or after its loss
                self._append([stopped(name, [event], self.lost[name])])
        else:
            self._open.setdefault(name, []).append(event)

    def close(self) -> None:
        """Writes what the chains cost that are under way: they have no end, and run again.

        Raises:
            RecordFault: it cannot be written, and no fault was told of before.
        """
        left, self._open = self._open, {}
        events: list[Event] = [lost for name, events in left.items() if (lost := stopped(name, events)).calls]
        if events:
            try:
                self._append(events)
            except RecordFault:
                if not self._faulty:
                    raise

    def errors(self) -> dict[str, int]:
        """What chains were lost to, and how many to each."""
        return dict(Counter(self.lost.values()))

    def _finish(self, name: Name, events: list[Event], event: ChainEvent) -> None:
        for one in events:
            if (wrong := unwritable(one)) is not None:
                self._lose(name, events, f"{one.event}.{wrong}, which cannot be recorded")
                return
        question = self.folder.asked(event.question)
        usage = Usage.of(one for one in events if not isinstance(one, AuditEvent))  # some are not answered yet
        chain = Finished(
            question=event.question,
            sample=event.sample,
            gold=question.answer if question is not None else None,
            answer=event.answer,
            ending=event.ending,
            turns=event.turns,
            take_overs=event.take_overs,
            rating=event.rating,
            decode=dict(usage.decode),
            prefill=dict(usage.prefill),
            started=event.started,
            ended=event.ended,
            text=event.text,
        )
        try:
            self._append(events, chain)
        except RecordFault as error:
            self.lost[name] = str(error)
            raise
        self.lost.pop(name, None)
        if self._on_chain is not None:
            self._on_chain(chain)

    def _lose(self, name: Name, events: list[Event], error: str) -> None:
        self.lost[name] = error
        self._append([stopped(name, events, error)])

    def _append(self, events: list[Event], chain: Finished | None = None) -> None:
        try:
            self.folder.append(events, chain)
        except RecordFault:
            self._faulty = True
            raise
