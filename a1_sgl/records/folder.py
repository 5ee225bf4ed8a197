"""A run folder and its files.

- ``run.json``: configuration and its fingerprint, environment, and when each session began.
- ``questions.jsonl``: what was asked, with the reference answers.
- ``events.jsonl``: every event of every finished chain, a chain's events together; prompts as they come; of a chain
  that broke off, why, and the calls that were made for it.
- ``chains.jsonl``: one line a finished chain, written after its events.
- ``grades.jsonl``: one line a chain, written when it is graded.
- ``summary.json``: written when a session ends.
- ``lock``: held by the process that writes.

A chain counts as finished when its line in ``chains.jsonl`` is complete. Opening a folder drops whatever a killed
session left of unfinished chains, so that these run again and no chain is counted twice; what they cost stays.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from a1_sgl.arguments import StrPath
from a1_sgl.arguments import path as as_path
from a1_sgl.compare import differences
from a1_sgl.errors import A1Error, ConfigError, first_line, why
from a1_sgl.records import files
from a1_sgl.types import (
    AnswerEvent,
    CalibrationEvent,
    ChainEvent,
    Ending,
    Event,
    Grade,
    LostEvent,
    PromptEvent,
    Question,
    calls_of,
)

SCHEMA = 4
STOPPED = "stopped before its end"
"""Why a chain is not there that was under way when its session ended: no error, and not counted as one."""
Name = tuple[str, int]
"""Question and sample."""


class _Event(RootModel[Event]):
    pass


class _Schema(BaseModel):
    schema_: int = Field(alias="schema")


class _Run(BaseModel):
    """What a ``run.json`` has whoever wrote it; its configuration is the runner's."""

    configuration: dict[str, Any]
    environment: dict[str, Any]
    sessions: list[float]


class Finished(BaseModel):
    """A finished chain, as it is recorded before it is graded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    sample: int
    gold: str | None
    answer: str | None
    ending: Ending
    turns: int
    take_overs: int
    rating: float | None = None
    decode: dict[str, int]
    prefill: dict[str, int]
    started: float
    ended: float
    text: str

    @property
    def name(self) -> Name:
        """Which chain."""
        return self.question, self.sample


class GradeRecord(BaseModel):
    """A chain's grade."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    sample: int
    correct: bool
    key: str | None = None
    """Its answer as votes compare it."""
    note: str | None = None
    """Why its answer could not be compared, where it could not."""


class ChainRecord(Finished):
    """A finished chain with its grade."""

    correct: bool
    key: str | None = None
    note: str | None = None


class RunFolder:
    """Reads and writes a run folder. `open` it to run, `edit` it to grade anew, `read` it to report.

    One that was opened holds the folder's lock until it is closed. Chains are appended by one thread and grades by
    one, which may be another.

    Attributes:
        finished: every chain on record, graded or not.
        chains: those that are graded, with their grades.
        events: of the finished chains, of the questions as such, and a `LostEvent` for each time a chain broke off.
    """

    def __init__(self, path: Path, run: dict[str, Any], finished: list[Finished], events: list[Event]) -> None:
        self.path, self.run, self.finished, self.events = path, run, finished, events
        self.chains: list[ChainRecord] = []
        self._grades: dict[Name, GradeRecord] = {}
        self._done = {chain.name for chain in finished}
        self._orphans: list[Event] = []
        self._asked: dict[str, Question] = {}
        self._lock: files.Lock | None = None
        self._grading = threading.Lock()
        self._files = [files.Appender(path / name) for name in ("events.jsonl", "chains.jsonl", "grades.jsonl")]
        self._events_file, self._chains_file, self._grades_file = self._files

    # --- opening and closing ----------------------------------------------------------------------------------

    @classmethod
    def open(
        cls, path: StrPath, configuration: Mapping[str, Any], environment: Mapping[str, Any], *, together: int = 1
    ) -> Self:
        """Starts a run, or goes on with one of the same configuration.

        Where the chains of a question depend on each other they run `together`: a question that has fewer finished
        ones was broken off, and begins anew.

        Raises:
            ConfigError: the folder holds a run of another configuration (the differences are named), or something
                that is no run, or another process writes to it, or it cannot be written.
        """
        path = as_path(path, "a run's folder")
        configuration = json.loads(json.dumps(configuration))
        lock = None
        try:
            if path.exists() and not path.is_dir():
                raise ConfigError(f"{path} is a file; a run needs a folder of its own")
            path.mkdir(parents=True, exist_ok=True)
            if (path / "run.json").exists():
                head(path)
            else:
                _check_empty(path)
            lock = files.Lock(path)
            if (path / "run.json").exists():
                folder = cls.read(path)
                if changes := differences(folder.run["configuration"], configuration):
                    raise ConfigError(
                        f"{path} holds a run of another configuration:\n  " + "\n  ".join(changes)
                        + "\nuse another --out, or the same options to resume; --overwrite begins anew"
                    )  # fmt: skip
                folder._mend(together)
            else:
                run = {
                    "schema": SCHEMA,
                    "configuration": configuration,
                    "fingerprint": _fingerprint(configuration),
                    "environment": dict(environment),
                    "sessions": [],
                }
                folder = cls(path, run, [], [])
            folder.run["sessions"].append(time.time())
            files.replace(path / "run.json", _json(folder.run))
        except BaseException as error:
            if lock is not None:
                lock.release()
            if isinstance(error, OSError):
                raise ConfigError(f"{path} cannot be written: {error}") from error
            raise
        folder._lock = lock
        return folder

    @classmethod
    @contextmanager
    def edit(cls, path: StrPath) -> Iterator[Self]:
        """A run as it was left, for something other than to go on with it; locked for the length of the block.

        Raises:
            ConfigError: as in `read`, or another process writes to it.
        """
        path = as_path(path, "a run's folder")
        head(path)  # a folder of something else gets no lock
        with _locked(path) as lock:
            folder = cls.read(path)
            for file in folder._files:
                files.mend(file.path)
            folder._lock = lock
            try:
                yield folder
            finally:
                folder.close()

    @classmethod
    def read(cls, path: StrPath) -> Self:
        """A run as it was left, or as it is so far, with the events of its finished chains. Needs no lock.

        Raises:
            ConfigError: no run is there, or it was written by a version that this one cannot read, or it is spoiled.
        """
        path = as_path(path, "a run's folder")
        run = head(path)
        try:
            # In this order, because a run may be going on: what one file names the next one has.
            grades = list(files.parse(path / "grades.jsonl", GradeRecord))
            finished = list(files.parse(path / "chains.jsonl", Finished))
            _check_single(path / "chains.jsonl", finished)
            events = [event.root for event in files.parse(path / "events.jsonl", _Event)]
        except OSError as error:
            raise ConfigError(f"{path} is not a readable run: {first_line(error)}") from error
        folder = cls(path, run, finished, [])
        for event in events:
            if isinstance(event, PromptEvent | CalibrationEvent | LostEvent):
                folder.events.append(event)
            elif not isinstance(event, AnswerEvent):
                whole = folder.has(event.question, event.sample)
                (folder.events if whole else folder._orphans).append(event)
        _check_told(path / "events.jsonl", finished, folder.events)
        known = folder._grades = {(grade.question, grade.sample): grade for grade in grades}
        folder.chains = [_graded(chain, known[chain.name]) for chain in finished if chain.name in known]
        return folder

    def close(self) -> None:
        """Hands what was written to the disk, and the lock to the next writer."""
        with self._grading:  # a grade that comes later is refused
            lock, self._lock = self._lock, None
        for file in self._files:
            file.close()
        if lock is not None:
            lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody else writes to the folder during the block; for files of one's own beside the record.

        Raises:
            ConfigError: another process writes to it.
        """
        if self._lock is not None:
            yield
        else:
            with _locked(self.path):
                yield

    # --- what is on record ------------------------------------------------------------------------------------

    def has(self, question: str, sample: int) -> bool:
        """Whether a chain is finished."""
        return (question, sample) in self._done

    def done(self) -> set[Name]:
        """Question and sample of every finished chain, graded or not."""
        return set(self._done)

    def ungraded(self) -> list[Finished]:
        """Finished chains that have no grade yet."""
        return [chain for chain in self.finished if chain.name not in self._grades]

    def lost(self) -> dict[Name, str]:
        """Chains that broke off with an error and have not been run to their end since, each with its last error."""
        return {
            (event.question, event.sample): event.error
            for event in self.events
            if isinstance(event, LostEvent) and event.error != STOPPED and not self.has(event.question, event.sample)
        }

    def asked(self, question: str) -> Question | None:
        """A question by its id, if it is one that was asked."""
        return self._asked.get(question)

    def questions(self) -> dict[str, Question]:
        """What was asked, by id.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            asked = list(files.parse(self.path / "questions.jsonl", Question))
        except OSError as error:
            raise ConfigError(f"{self.path}/questions.jsonl cannot be read: {first_line(error)}") from error
        return {question.id: question for question in asked}

    def wall(self) -> float:
        """Seconds that the run's sessions took, from each one's begin to its last recorded event."""
        ends = sorted(_end(event) for event in self.events)
        total = 0.0
        starts = self.run["sessions"]
        for start, following in zip(starts, [*starts[1:], float("inf")], strict=True):
            total += max((end - start for end in ends if start <= end < following), default=0.0)
        return total

    # --- writing ----------------------------------------------------------------------------------------------

    def ask(self, questions: Iterable[Question]) -> None:
        """Writes ``questions.jsonl``, once.

        Raises:
            RecordFault: it cannot be written.
        """
        self._asked = {question.id: question for question in questions}
        if not (self.path / "questions.jsonl").exists():
            self._replace("questions.jsonl", files.lines(self._asked.values()))

    def append(self, events: Iterable[Event], chain: Finished | None = None) -> None:
        """Adds events and then, if it is finished, their chain: all of it, or on a fault none.

        Raises:
            A1Error: the chain is there already.
            RecordFault: it cannot be written.
        """
        self._check_writable()
        if chain is not None and chain.name in self._done:
            raise A1Error(f"chain {chain.sample} of question {chain.question} is in {self.path} already")
        events = list(events)
        try:
            file = self._events_file
            if events:
                file.write(files.lines(events))
            if chain is not None:
                try:
                    self._chains_file.write(files.lines([chain]))
                except BaseException:
                    if events:  # they would be those of a chain that is not there
                        file.take_back()
                    file = self._chains_file
                    raise
        except OSError as error:
            raise files.fault(file.path, error, len(self.finished)) from error
        self.events.extend(events)
        if chain is not None:
            self._done.add(chain.name)
            self.finished.append(chain)

    def grade(self, chain: Finished, grade: Grade) -> None:
        """Adds a finished chain's grade.

        Raises:
            A1Error: it has one already.
            RecordFault: it cannot be written.
        """
        record = _grade_record(chain, grade)
        with self._grading:
            self._check_writable()
            if chain.name in self._grades:
                raise A1Error(f"chain {chain.sample} of question {chain.question} is graded in {self.path} already")
            try:
                self._grades_file.write(files.lines([record]))
            except OSError as error:
                raise files.fault(self._grades_file.path, error, len(self.finished)) from error
            self._grades[chain.name] = record
            self.chains.append(_graded(chain, record))

    def grade_anew(self, grades: Mapping[Name, Grade]) -> list[tuple[GradeRecord | None, GradeRecord]]:
        """Puts `grades`, one for each finished chain, in the place of all there are, in one piece.

        Returns:
            Those that are other than they were, old and new.

        Raises:
            RecordFault: they cannot be written; the old ones stay.
        """
        self._check_writable()
        records = {chain.name: _grade_record(chain, grades[chain.name]) for chain in self.finished}
        changes = [(old, new) for name, new in records.items() if (old := self._grades.get(name)) != new]
        self._grades_file.close()
        self._replace("grades.jsonl", files.lines(records.values()))
        self._grades = records
        self.chains = [_graded(chain, records[chain.name]) for chain in self.finished]
        return changes

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes ``summary.json``. Errors as in `ask`."""
        self._replace("summary.json", _json(_finite(summary)))

    def add_energy(self, joules: float) -> None:
        """Adds what the devices used in this session to the run's total. Errors as in `ask`."""
        self.run["energy_j"] = self.run.get("energy_j", 0.0) + joules
        self._replace("run.json", _json(self.run))

    def note(self, name: str, value: Any) -> None:
        """Keeps in ``run.json`` what holds of the run and is no part of its configuration. Errors as in `ask`."""
        if self.run.get(name) != value:
            self.run[name] = value
            self._replace("run.json", _json(self.run))

    # --- inside -----------------------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        if self._lock is None:
            raise A1Error(f"{self.path} was only read, or is closed; open it to write to it")

    def _replace(self, name: str, data: bytes) -> None:
        self._check_writable()
        try:
            files.replace(self.path / name, data)
        except OSError as error:
            raise files.fault(self.path / name, error, len(self.finished)) from error

    def _mend(self, together: int) -> None:
        """Takes out what is of no finished chain, events before chains: a crash in between leaves what is mended again.

        Of what is taken out the calls stay, as those of a lost chain.
        """
        counts = Counter(chain.question for chain in self.finished)
        begun = {event.question for event in (*self.events, *self._orphans)} | counts.keys()
        broken = {question for question in begun if counts[question] < together}
        self.finished = [chain for chain in self.finished if chain.question not in broken]
        self._done = {chain.name for chain in self.finished}
        kept: list[Event] = []
        torn: defaultdict[Name, list[Event]] = defaultdict(list)
        for event in (*self.events, *self._orphans):
            if isinstance(event, PromptEvent | LostEvent | AnswerEvent):
                kept.append(event)
            elif isinstance(event, CalibrationEvent):  # those of a question that begins anew are made anew
                if event.question in broken:
                    torn[event.question, 0].append(event)
                else:
                    kept.append(event)
            elif self.has(event.question, event.sample):
                kept.append(event)
            else:
                torn[event.question, event.sample].append(event)
        if torn:
            kept += [stopped(name, events) for name, events in torn.items()]
            files.replace(self._events_file.path, files.lines(kept))
        else:
            files.mend(self._events_file.path)
        self.events, self._orphans = kept, []
        if broken & counts.keys():
            files.replace(self._chains_file.path, files.lines(self.finished))
        else:
            files.mend(self._chains_file.path)
        if self._grades.keys() - self._done:  # a chain that runs again is graded again
            self._grades = {name: grade for name, grade in self._grades.items() if name in self._done}
            files.replace(self._grades_file.path, files.lines(self._grades.values()))
        else:
            files.mend(self._grades_file.path)
        self.chains = [chain for chain in self.chains if chain.name in self._done]


def stopped(name: Name, events: Iterable[Event], error: str = STOPPED) -> LostEvent:
    """What stays of a chain that broke off: its calls."""
    calls = tuple(call for call in calls_of(events) if unwritable(call) is None)
    return LostEvent(question=name[0], sample=name[1], error=error, calls=calls)


def unwritable(record: BaseModel) -> str | None:
    """A number in an event or a call that JSON has not, ``score is nan``; None if there is none."""
    for field, value in record.__dict__.items():
        if isinstance(value, float):
            if not math.isfinite(value):
                return f"{field} is {value}"
        elif isinstance(value, BaseModel):
            if (found := unwritable(value)) is not None:
                return f"{field}.{found}"
        elif isinstance(value, tuple):
            for one in value:
                if isinstance(one, BaseModel) and (found := unwritable(one)) is not None:
                    return f"{field}.{found}"
    return None


def _graded(chain: Finished, grade: GradeRecord) -> ChainRecord:
    return ChainRecord(**chain.__dict__, correct=grade.correct, key=grade.key, note=grade.note)


def _grade_record(chain: Finished, grade: Grade) -> GradeRecord:
    return GradeRecord(
        question=chain.question, sample=chain.sample, correct=grade.correct, key=grade.key, note=grade.note
    )


def head(path: StrPath) -> dict[str, Any]:
    """What a run's ``run.json`` holds. Errors as in `RunFolder.read`."""
    path = as_path(path, "a run's folder")
    try:
        data = (path / "run.json").read_bytes()
        schema = _Schema.model_validate_json(data).schema_
        if schema != SCHEMA:
            raise ConfigError(
                f"{path} was written with record schema {schema}, and this version reads {SCHEMA}; read it with the "
                "version of a1-sgl that its run.json names"
            )
        _Run.model_validate_json(data)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} holds no run ({error.filename} is missing)") from error
    except OSError as error:
        raise ConfigError(f"{path} is not a readable run: {first_line(error)}") from error
    except ValidationError as error:
        raise ConfigError(f"{path} is not a readable run: run.json: {why(error)}") from error
    run: dict[str, Any] = json.loads(data)
    return run


def _check_empty(path: Path) -> None:
    """Refuses a folder of something else, before a lock is put into it."""
    other = [one for one in path.iterdir() if one.name not in (files.Lock.NAME, "run.json.tmp")]
    if other and not (path / "run.json").exists():  # or another process has just begun a run here
        raise ConfigError(f"{path} is not empty and holds no run.json; use another --out")


def discard(path: Path, mark: str = "run.json") -> None:
    """Takes away a run's folder, or one of several runs, with all that is in it; no folder, or an empty one, is fine.

    Args:
        mark: the file by which such a folder is known.

    Raises:
        ConfigError: it holds something else, or another process writes to it.
    """
    if not path.exists():
        return
    if any(path.iterdir()) and not (path / mark).is_file():
        raise ConfigError(
            f"--overwrite takes away earlier runs and nothing else, and {path} holds something and no {mark}; name "
            "another --out, or empty it yourself"
        )
    lock = files.Lock(path)
    shutil.rmtree(path)
    lock.release()


def _check_single(path: Path, finished: Iterable[Finished]) -> None:
    """Refuses a chain that is there twice."""
    first: dict[Name, int] = {}
    for number, chain in enumerate(finished, 1):
        if chain.name in first:
            raise ConfigError(
                f"{path} holds chain {chain.sample} of question {chain.question} twice, in lines {first[chain.name]} "
                f"and {number}, as if two processes had written to it; take both lines out, and the same command runs "
                "that chain again"
            )
        first[chain.name] = number


def _check_told(path: Path, finished: Iterable[Finished], events: Iterable[Event]) -> None:
    """Refuses chains of which the events do not tell: what they cost would count as nothing.

    Where mending was killed half way they tell that a chain is lost which is still there, and what it cost.
    """
    told = {(event.question, event.sample) for event in events if isinstance(event, ChainEvent | LostEvent)}
    if untold := [chain for chain in finished if chain.name not in told]:
        what = f"does not tell of the end of {len(untold)} chains" if path.exists() else "is missing"
        raise ConfigError(
            f"{path} {what}, and chains.jsonl holds {len(untold)} that it must tell of, chain {untold[0].sample} of "
            f"question {untold[0].question} first; put the file back, or take their lines out of chains.jsonl and the "
            "same command runs them again"
        )


@contextmanager
def _locked(path: Path) -> Iterator[files.Lock]:
    try:
        lock = files.Lock(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error
    try:
        yield lock
    finally:
        lock.release()


def _fingerprint(configuration: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:16]


def _end(event: Event) -> float:
    calls = max((call.ended for call in calls_of([event])), default=0.0)
    return event.ended if isinstance(event, ChainEvent) else calls


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _finite(value: Any) -> Any:
    """The same with null for a number that JSON has not."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
