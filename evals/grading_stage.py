"""When chains are graded: beside the run, in a stage of its own, or anew when it is long over."""

from __future__ import annotations

import json
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a1_sgl import answers
from a1_sgl.arguments import StrPath
from a1_sgl.errors import ConfigError, RecordFault
from a1_sgl.evals.metrics import summarise
from a1_sgl.records import Finished, RunFolder
from a1_sgl.types import Grade, Question

Grader = Callable[[str | None, Question], Grade]


class Grading:
    """Grades finished chains in a thread of its own, one after the other, while the run goes on.

    Entering the ``with`` block takes up what an earlier session has left ungraded, leaving it waits until everything
    is graded. If that wait is interrupted, the rest stays ungraded, for the next session. Where a grader fails the
    answer is wrong, with a note.
    """

    def __init__(
        self, folder: RunFolder, questions: Mapping[str, Question], grader: Grader,
        tick: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            folder: opened; its `grade` is called by nobody else.
            questions: what was asked, by id.
            grader: ``grader(answer, question)``.
            tick: called twice a second while the end waits for the last grades.
        """
        self._folder, self._questions, self._grader, self._tick = folder, questions, grader, tick
        self._queue: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="grading", daemon=True)
        self._halt = False
        self._trouble: Exception | None = None

    def __enter__(self) -> Grading:
        for chain in self._folder.ungraded():
            self.submit(chain)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """Raises a `RecordFault` if grades could not be written and nothing else is raised already."""
        self._queue.put(None)
        try:
            while self._thread.is_alive():
                self._thread.join(0.5)
                if self._tick is not None:
                    self._tick()
        except BaseException:
            self._halt = True
            raise
        if self._trouble is not None and kind is None:
            raise self._trouble

    def submit(self, chain: Finished) -> None:
        """Has a chain graded, in its turn; returns at once."""
        self._queue.put(chain)

    def _work(self) -> None:
        while (chain := self._queue.get()) is not None and not self._halt:
            found = grade(self._grader, chain, self._questions)
            if self._halt:
                return
            try:
                self._folder.grade(chain, found)
            except Exception as error:
                self._trouble = error
                if isinstance(error, RecordFault):  # the next one would fare no better; a resume grades what is missing
                    return


def grade(grader: Grader, chain: Finished, questions: Mapping[str, Question]) -> Grade:
    """A chain's grade, whatever happens; an error is one of its notes."""
    try:
        return grader(chain.answer, questions[chain.question])
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        return Grade(False, None, f"grading failed: {type(error).__name__}: {said}")


@dataclass(frozen=True)
class Regraded:
    """What grading anew has changed, in chains.

    Attributes:
        chains: how many were graded.
        right: wrong before, right now.
        wrong: right before, wrong now.
        reworded: as right as before, with another key or note.
        new: those that had no grade.
        notes: how many answers could not be compared, by the reason.
    """

    chains: int
    right: int
    wrong: int
    reworded: int
    new: int
    notes: Mapping[str, int]


def regrade(path: StrPath, grader: str | None = None) -> Regraded:
    """Grades every finished chain of a run anew with this version's grader and writes its summary again; no model runs.

    Args:
        grader: a name in `GRADERS`; None is the run's own.

    Raises:
        ConfigError: no run is there, or it is being written, or its grader or its questions are not known.
        RecordFault: the grades cannot be written; the old ones stay.
    """
    with RunFolder.edit(path) as folder:
        name = grader or grader_of(folder.run["configuration"])
        if name not in answers.GRADERS:
            raise ConfigError(f"unknown grader {name!r}; known: {', '.join(answers.GRADERS)}")
        questions = folder.questions()
        if missing := {chain.question for chain in folder.finished} - questions.keys():
            raise ConfigError(
                f"{folder.path}/questions.jsonl does not hold question {min(missing)}, so its chains cannot be graded"
            )
        grades = _grades(name, folder.finished, questions)
        changes = folder.grade_anew(grades)
        folder.write_summary(_earlier(folder.path) | summarise(folder))
        flips = Counter("new" if old is None else (old.correct, new.correct) for old, new in changes)
        return Regraded(
            len(grades), flips[False, True], flips[True, False], flips[True, True] + flips[False, False], flips["new"],
            Counter(one.note for one in grades.values() if one.note),
        )  # fmt: skip


def grader_of(configuration: Mapping[str, Any]) -> str:
    """The name of a run's grader: on record, or as its task declares it.

    Raises:
        ConfigError: it is not on record and the task is not known.
    """
    if (name := configuration.get("grader")) is not None:
        return str(name)
    from a1_sgl.evals.tasks import find_task

    return find_task(configuration["task"]).grader


def _grades(name: str, chains: Iterable[Finished], questions: Mapping[str, Question]) -> dict[tuple[str, int], Grade]:
    def grader(answer: str | None, question: Question) -> Grade:
        return answers.grade(name, answer, question)

    return {chain.name: grade(grader, chain, questions) for chain in chains}


def _earlier(path: Path) -> dict[str, Any]:
    """The summary as it was; it may say what a record does not."""
    try:
        found = json.loads((path / "summary.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
