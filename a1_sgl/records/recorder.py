"""The listener that writes a run as it happens."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping

from a1_sgl.records.folder import ChainRecord, RunFolder
from a1_sgl.types import (
    AnswerEvent,
    CalibrationEvent,
    ChainEvent,
    Event,
    Grade,
    LostEvent,
    PromptEvent,
    Question,
    Usage,
)


class Recorder:
    """Collects each chain's events and writes them together when the chain is finished; safe between threads."""

    def __init__(
        self, folder: RunFolder, questions: Mapping[str, Question], grade: Callable[[str | None, Question], Grade]
    ) -> None:
        self.folder = folder
        self.lost: dict[tuple[str, int], str] = {}
        self._questions, self._grade = questions, grade
        self._open: dict[tuple[str, int], list[Event]] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        # Before the lock, because comparing answers may take seconds, and other chains' events need not wait.
        grade = self._grade(event.answer, self._questions[event.question]) if isinstance(event, ChainEvent) else None
        with self._lock:
            if isinstance(event, PromptEvent | CalibrationEvent):
                self.folder.append([event])
                return
            if isinstance(event, AnswerEvent):  # follows from the chains, also of a run that was resumed
                return
            name = (event.question, event.sample)
            events = self._open.setdefault(name, [])
            events.append(event)
            if isinstance(event, LostEvent):
                self.lost[name] = event.error
                del self._open[name]
            elif isinstance(event, ChainEvent):
                self.folder.append(events, self._record(event, events, grade or Grade(False)))
                self.lost.pop(name, None)
                del self._open[name]

    def _record(self, event: ChainEvent, events: list[Event], grade: Grade) -> ChainRecord:
        question, usage = self._questions[event.question], Usage.of(events)
        return ChainRecord(
            question=event.question,
            sample=event.sample,
            gold=question.answer,
            answer=event.answer,
            correct=grade.correct,
            key=grade.key,
            note=grade.note,
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

    def errors(self) -> dict[str, int]:
        """What chains were lost to, and how many to each."""
        return dict(Counter(self.lost.values()))
