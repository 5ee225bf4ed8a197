"""A run folder and its five files.

- ``run.json``: configuration and its fingerprint, environment, and when each session began.
- ``questions.jsonl``: what was asked, with the reference answers.
- ``events.jsonl``: every event of every finished chain, a chain's events together; prompts as they come.
- ``chains.jsonl``: one line a finished chain, written after its events.
- ``summary.json``: written when a session ends.

A chain counts as finished when its line in ``chains.jsonl`` is complete. Opening a folder drops whatever a killed
session left of unfinished chains, so that these run again and no chain is counted twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from a1_sgl.compare import differences
from a1_sgl.errors import ConfigError
from a1_sgl.types import (
    AnswerEvent,
    CalibrationEvent,
    ChainEvent,
    Ending,
    Event,
    LostEvent,
    PromptEvent,
    Question,
    calls_of,
)

SCHEMA = 2
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class _Unread(ConfigError):
    """A record of another schema."""


class ChainRecord(BaseModel):
    """A finished chain with its grade."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    sample: int
    gold: str | None
    answer: str | None
    correct: bool
    key: str | None = None
    """Its answer as votes compare it."""
    note: str | None = None
    """Why its answer could not be compared, where it could not."""
    ending: Ending
    turns: int
    take_overs: int
    rating: float | None = None
    decode: dict[str, int]
    prefill: dict[str, int]
    started: float
    ended: float
    text: str


class RunFolder:
    """Reads and writes a run folder. `open` it to run, `read` it to report."""

    def __init__(self, path: Path, run: dict[str, Any], chains: list[ChainRecord], events: list[Event]) -> None:
        self.path, self.run, self.chains, self.events = path, run, chains, events

    @classmethod
    def open(
        cls, path: Path, configuration: Mapping[str, Any], environment: Mapping[str, Any], *, together: int = 1
    ) -> RunFolder:
        """Starts a run, or goes on with one of the same configuration.

        Where the chains of a question depend on each other they run `together`: a question that has fewer finished
        ones was broken off, and begins anew.

        Raises:
            ConfigError: the folder holds a run of another configuration (the differences are named), or something
                that is no run, or it cannot be written.
        """
        configuration = json.loads(json.dumps(configuration))
        try:
            path.mkdir(parents=True, exist_ok=True)
            if (path / "run.json").exists():
                folder = cls.read(path)
                if changes := differences(folder.run["configuration"], configuration):
                    raise ConfigError(
                        f"{path} holds a run of another configuration:\n  " + "\n  ".join(changes)
                        + "\nuse another --out, or the same options to resume"
                    )  # fmt: skip
                folder._keep_whole(together)
                folder._mend()
            elif any(path.iterdir()):
                raise ConfigError(f"{path} is not empty and holds no run.json; use another --out")
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
            _replace(path / "run.json", json.dumps(folder.run, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error}") from error
        return folder

    @classmethod
    def read(cls, path: Path) -> RunFolder:
        """A run as it was left, with the events of its finished chains.

        Raises:
            ConfigError: no run is there, or it was written by a version that this one cannot read.
        """
        try:
            run = json.loads((path / "run.json").read_text())
            if run["schema"] != SCHEMA:
                raise _Unread(
                    f"{path} was written with record schema {run['schema']}, and this version reads {SCHEMA}; read it "
                    "with the version of a1-sgl that its run.json names"
                )
            chains = [ChainRecord.model_validate_json(line) for line in _lines(path / "chains.jsonl")]
            done = {(chain.question, chain.sample) for chain in chains}
            events = [_EVENT.validate_json(line) for line in _lines(path / "events.jsonl")]
        except _Unread:
            raise
        except FileNotFoundError as error:
            raise ConfigError(f"{path} holds no run ({error.filename} is missing)") from error
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise ConfigError(f"{path} is not a readable run: {str(error).splitlines()[0]}") from error
        kept: list[Event] = [
            e
            for e in events
            if isinstance(e, PromptEvent | CalibrationEvent)
            or (not isinstance(e, LostEvent | AnswerEvent) and (e.question, e.sample) in done)
        ]
        return cls(path, run, chains, kept)

    def done(self) -> set[tuple[str, int]]:
        """Question and sample of every finished chain."""
        return {(chain.question, chain.sample) for chain in self.chains}

    def ask(self, questions: Iterable[Question]) -> None:
        """Writes ``questions.jsonl``, once."""
        path = self.path / "questions.jsonl"
        if not path.exists():
            _replace(path, "".join(question.model_dump_json() + "\n" for question in questions))

    def questions(self) -> dict[str, Question]:
        """What was asked, by id.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            asked = [Question.model_validate_json(line) for line in _lines(self.path / "questions.jsonl")]
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path}/questions.jsonl cannot be read: {str(error).splitlines()[0]}") from error
        return {question.id: question for question in asked}

    def append(self, events: Iterable[Event], chain: ChainRecord | None = None) -> None:
        """Adds events and then, if it is finished, their chain. Not safe to call from two threads at once."""
        events = list(events)
        _append(self.path / "events.jsonl", [event.model_dump_json() for event in events])
        self.events.extend(events)
        if chain is not None:
            _append(self.path / "chains.jsonl", [chain.model_dump_json()])
            self.chains.append(chain)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes ``summary.json``."""
        _replace(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def add_energy(self, joules: float) -> None:
        """Adds what the devices used in this session to the run's total."""
        self.run["energy_j"] = self.run.get("energy_j", 0.0) + joules
        _replace(self.path / "run.json", json.dumps(self.run, indent=2) + "\n")

    def wall(self) -> float:
        """Seconds that the run's sessions took, from each one's begin to its last recorded event."""
        ends = sorted(_end(event) for event in self.events)
        total = 0.0
        starts = self.run["sessions"]
        for start, following in zip(starts, [*starts[1:], float("inf")], strict=True):
            total += max((end - start for end in ends if start <= end < following), default=0.0)
        return total

    def _keep_whole(self, together: int) -> None:
        counts = Counter(chain.question for chain in self.chains)
        if broken := {question for question, count in counts.items() if count < together}:
            self.chains = [chain for chain in self.chains if chain.question not in broken]
            self.events = [event for event in self.events if event.question not in broken]

    def _mend(self) -> None:
        _replace(self.path / "chains.jsonl", "".join(c.model_dump_json() + "\n" for c in self.chains))
        _replace(self.path / "events.jsonl", "".join(e.model_dump_json() + "\n" for e in self.events))


def _fingerprint(configuration: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:16]


def _end(event: Event) -> float:
    calls = max((call.ended for call in calls_of([event])), default=0.0)
    return event.ended if isinstance(event, ChainEvent) else calls


def _lines(path: Path) -> list[str]:
    """Complete lines; a last line without its newline was torn by a crash."""
    if not path.exists():
        return []
    text = path.read_text()
    return text.split("\n")[:-1]


def _append(path: Path, lines: list[str]) -> None:
    with path.open("a") as file:
        file.write("".join(line + "\n" for line in lines))


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(text)
    draft.replace(path)
