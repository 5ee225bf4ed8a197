"""The gate that all requests share, and what it is kept by.

There is one gate for each score and each alpha that is asked for, so that every one of them holds its own rate. What
they decide is written to a journal within a second; now and then the whole state takes the journal's place. So nothing
is lost where the server ends in order, a second's decisions where it is killed, and neither file grows without end.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from a1_sgl.conformal import DEFAULT, Card, Decision, Frozen, Gate, GuardedGate, Rate, make
from a1_sgl.conformal.rates import effective_size
from a1_sgl.errors import ConfigError, first_line
from a1_sgl.records.files import Lock, read_lines, replace

log = logging.getLogger(__name__)
SCHEMA = 1
MOST = 16
"""Gates that are kept: the default and those that were asked for last."""
QUESTIONS = 10_000
"""Questions that a realised rate and its interval are of: the last ones."""
TURNS = 64
"""Turns that are counted by themselves; later ones count as the last of these."""
JOURNAL = 20_000
"""Entries after which the state takes the journal's place."""


@dataclass(frozen=True)
class Kind:
    """How gates are made.

    Attributes:
        name: a name in `a1_sgl.conformal.GATES`.
        alpha: the level of requests that say nothing of one.
        score: what the card's scores are, and the default program's.
        card: what a gate by that score starts from.
        alarm: what a drift alarm does; None sets none.
        threshold: of its wealth.
        seed: of the smoothing draws.
    """

    name: str = DEFAULT
    alpha: float = 0.25
    score: str = "mean_loss"
    card: Card | None = None
    alarm: str | None = None
    threshold: float = 100.0
    seed: int = 0

    def make(self, score: str, alpha: float) -> Gate | GuardedGate:
        """A fresh one.

        Raises:
            ValueError: what the name needs is not there, or alpha is none.
        """
        made = make(self.name, alpha, seed=self.seed)
        card = self.card if score == self.score else None
        if isinstance(made, Frozen) and card is None:
            raise ValueError(f"gate {self.name} has a card's scores and no others, and there is no card of {score}")
        # One chain of each question: requests ask for as many as they like, and the alarm needs them to be alike.
        watched = (
            None if self.alarm is None else GuardedGate(made, action=self.alarm, threshold=self.threshold, chains=1)
        )
        gate = watched or made
        if card is not None:
            card.fill(gate)
        if isinstance(made, Frozen):
            made.close()
        return gate

    @property
    def configuration(self) -> dict[str, Any]:
        """What a state is only good for."""
        return {
            "gate": self.name, "score": self.score, "card": self.card.sha256 if self.card else None,
            "alarm": self.alarm and [self.alarm, self.threshold], "seed": self.seed,
        }  # fmt: skip


@dataclass
class Counts:
    """What a gate did, by question and by turn; both bounded."""

    recent: deque[list[int]] = field(default_factory=lambda: deque(maxlen=QUESTIONS))
    open: dict[Hashable, list[int]] = field(default_factory=dict)
    turns: dict[int, list[int]] = field(default_factory=dict)
    decisions: int = 0
    take_overs: int = 0

    def note(self, question: Hashable, turn: int, take_over: bool) -> None:
        """A decision."""
        self.decisions += 1
        self.take_overs += take_over
        for count in (self.open.setdefault(question, [0, 0]), self.turns.setdefault(min(turn, TURNS), [0, 0])):
            count[0] += take_over
            count[1] += 1

    def over(self, question: Hashable) -> None:
        """No more of that question."""
        if (count := self.open.pop(question, None)) is not None:
            self.recent.append(count)

    @property
    def rate(self) -> Rate:
        """Over the last questions; its interval is clustered by question."""
        counted = [*self.recent, *self.open.values()]
        if not counted:
            return Rate(0, 0)
        hits, sizes = [one[0] for one in counted], [one[1] for one in counted]
        return Rate(sum(hits), sum(sizes), effective_size(hits, sizes))

    def state(self) -> Any:
        """As JSON; what is open is over, since whoever asked is gone when it is read."""
        return {"recent": [*self.recent, *self.open.values()], "turns": list(self.turns.items()),
                "decisions": self.decisions, "take_overs": self.take_overs}  # fmt: skip

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Counts:
        """The inverse."""
        recent: deque[list[int]] = deque(map(list, state["recent"]), maxlen=QUESTIONS)
        turns = {turn: list(count) for turn, count in state["turns"]}
        return cls(recent, {}, turns, state["decisions"], state["take_overs"])


class Level:
    """One gate as programs see it: it decides as the gate within does, and everything is counted and put on record."""

    def __init__(self, score: str, gate: Gate | GuardedGate, note: Callable[[list[Any]], None]) -> None:
        self.score, self.gate, self.counts = score, gate, Counts()
        self._held: dict[Hashable, int] = {}
        self._note = note

    @property
    def alpha(self) -> float:
        """Nominal take-over rate."""
        return self.gate.alpha

    @property
    def alarms(self) -> int:
        """Drift alarms so far."""
        return len(self.gate.alarms) if isinstance(self.gate, GuardedGate) else 0

    @property
    def scores(self) -> int:
        """How many scores its bank has."""
        return len((self.gate.gate if isinstance(self.gate, GuardedGate) else self.gate).bank)

    def shown(self) -> dict[str, Any]:
        """As responses have it: what was decided so far, of the last questions, with its 95% interval."""
        rate = self.counts.rate
        low, high = rate.interval()
        return {"alpha": self.alpha, "rate": rate.realised, "low": low, "high": high, "decisions": rate.n,
                "alarms": self.alarms}  # fmt: skip

    @property
    def idle(self) -> bool:
        """Whether nobody asks it anything."""
        return not self._held

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """As in `Decider`."""
        place: dict[str, Any] = {"question": question, "sample": sample, "turn": turn, "task": task, "attempt": attempt}
        decision = self.gate(score, **place)
        self.counts.note(question, turn, decision.take_over)
        self._note(["d", self.score, self.alpha, score, decision.take_over, *place.values()])
        return decision

    def observe(
        self, score: float, take_over: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "",
        attempt: int = 0,
    ) -> None:  # fmt: skip
        """As in `Decider`: of a decision that the journal has."""
        self.gate.observe(score, take_over, question=question, sample=sample, turn=turn, task=task, attempt=attempt)
        self.counts.note(question, turn, take_over)

    def calibrate(
        self, score: float, *, question: Hashable, sample: int = 0, turn: int = 0, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """As in `Decider`."""
        self.gate.calibrate(score, question=question, sample=sample, turn=turn, task=task, attempt=attempt)
        self._note(["c", self.score, self.alpha, score, question, sample, turn, task, attempt])

    def audited(
        self, wrong: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """As in `Decider`; these gates ask for no audits."""

    def finish(self, question: Hashable, sample: int) -> None:
        """As in `Decider`."""
        self.gate.finish(question, sample)

    def begin(self, question: Hashable) -> None:
        """As in `Decider`."""
        self._held[question] = self._held.get(question, 0) + 1
        self.gate.begin(question)
        self._note(["b", self.score, self.alpha, question])

    def end(self, question: Hashable) -> None:
        """As in `Decider`. Of a question that nobody has begun, nothing ends."""
        if question not in self._held:
            return
        self._held[question] -= 1
        if not self._held[question]:
            del self._held[question]
            self.counts.over(question)
        self.gate.end(question)
        self._note(["e", self.score, self.alpha, question])

    def abandon(self) -> None:
        """Ends what is open: whoever began it is gone."""
        for question, holds in list(self._held.items()):
            for _ in range(holds):
                self.end(question)

    def state(self) -> Any:
        """As JSON."""
        return {"score": self.score, "alpha": self.alpha, "gate": self.gate.state(), "counts": self.counts.state(),
                "held": list(self._held.items())}  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse; what was open then is open still."""
        self.gate.restore(state["gate"])
        self.counts = Counts.of(state["counts"])
        self._held = dict(state["held"])


class Gates:
    """All of them. Everything happens on the event loop but for the making."""

    def __init__(self, kind: Kind, folder: Path | None = None) -> None:
        """
        Args:
            folder: where the state is kept; None keeps none.

        Raises:
            ConfigError: the folder cannot be written or is another server's, or its state is of another set-up or
                damaged.
        """
        self.kind, self._folder = kind, folder
        self._levels: OrderedDict[tuple[str, float], Level] = OrderedDict()
        self._journal: IO[bytes] | None = None
        self._unwritten = bytearray()
        self._lock: Lock | None = None
        self._entries = self._number = 0
        self.at(kind.score, kind.alpha)
        if folder is not None:
            self._open(folder)

    def at(self, score: str, alpha: float) -> Level:
        """The gate of a score at a level, made where there is none.

        Of more than `MOST` the one that was asked for longest ago goes, if nobody asks it anything.

        Raises:
            ValueError: as `Kind.make`.
        """
        key = (score, float(alpha))
        if (found := self._levels.get(key)) is None:
            found = self._levels[key] = Level(score, self.kind.make(score, alpha), self._note)
            for name, level in list(self._levels.items()):
                if len(self._levels) <= MOST:
                    break
                if level.idle and name not in (key, (self.kind.score, self.kind.alpha)):
                    del self._levels[name]
        self._levels.move_to_end(key)
        return found

    @property
    def levels(self) -> list[Level]:
        """Those there are, the default first."""
        first = self._levels[self.kind.score, float(self.kind.alpha)]
        return [first, *(level for level in self._levels.values() if level is not first)]

    # --- on disk ----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """What was noted is with the operating system; once a second."""
        if self._journal is None:
            return
        try:
            if self._entries >= JOURNAL:
                self.save()
            while self._unwritten:
                del self._unwritten[: self._journal.write(self._unwritten)]
        except OSError as error:  # requests go on; the next second may have room
            log.error("the gate's state cannot be written: %s", first_line(error))

    def save(self) -> None:
        """The whole state takes the journal's place.

        Raises:
            OSError: the disk does not take it; the state and journal before it stay.
        """
        if self._folder is None:
            return
        number = self._number + 1
        journal = (self._folder / _journal(number)).open("wb", buffering=0)  # what it does not take stays here
        content = {"schema": SCHEMA, "configuration": self.kind.configuration, "journal": number,
                   "levels": [level.state() for level in self._levels.values()]}  # fmt: skip
        replace(self._folder / "gate.json", orjson.dumps(content))  # from here on the new journal is the one
        before, self._journal, self._number, self._entries = self._journal, journal, number, 0
        self._unwritten.clear()
        if before is not None:
            before.close()
        for old in self._folder.glob("gate-*.log"):
            if old.name != _journal(number):
                old.unlink(missing_ok=True)

    def close(self) -> None:
        """Saves, and lets go of the folder."""
        if self._folder is None or self._journal is None:
            return
        try:
            self.save()
        finally:
            self._journal.close()
            self._journal = None
            if self._lock is not None:
                self._lock.release()

    def _note(self, entry: list[Any]) -> None:
        if self._journal is not None and self._entries < JOURNAL:  # beyond that the whole state is written next
            self._unwritten += orjson.dumps(entry) + b"\n"
            self._entries += 1

    def _open(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(folder)
        except OSError as error:
            raise ConfigError(f"--state {folder} cannot be written: {error.strerror}") from error
        if (state := folder / "gate.json").exists():
            self._restore(state)
        for level in self._levels.values():
            level.abandon()
        self.save()

    def _restore(self, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
            if content["schema"] != SCHEMA:
                raise ValueError(f"its schema is {content['schema']}, this version has {SCHEMA}")
            if (theirs := content["configuration"]) != (mine := json.loads(json.dumps(self.kind.configuration))):
                apart = ", ".join(f"{name} {theirs.get(name)!r}, now {mine[name]!r}" for name in mine
                                  if theirs.get(name) != mine[name])  # fmt: skip
                raise ConfigError(
                    f"{path} is the state of another gate: {apart}. Start as then, or name another --state folder"
                )
            for one in content["levels"]:
                self.at(one["score"], one["alpha"]).restore(one)
            self._number = int(content["journal"])
        except ConfigError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} cannot be used as the gate's state: {first_line(error)}; move the folder away to begin anew"
            ) from error
        self._replay(path.parent / _journal(self._number))

    def _replay(self, path: Path) -> None:
        """Goes through a journal; a last line that is torn was being written when the server was killed."""
        for number, line in enumerate(read_lines(path), 1):
            try:
                kind, score, alpha, *rest = orjson.loads(line)
                level = self.at(score, alpha)
                if kind == "d":
                    value, take_over, *place = rest
                    level.observe(value, take_over, **_place(place))
                elif kind == "c":
                    value, *place = rest
                    level.calibrate(value, **_place(place))
                else:
                    {"b": level.begin, "e": level.end}[kind](*rest)
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{path}, line {number}: this is no entry of the gate's journal ({first_line(error)}); move the "
                    "folder away to begin anew"
                ) from error


def _place(values: list[Any]) -> dict[str, Any]:
    return dict(zip(("question", "sample", "turn", "task", "attempt"), values, strict=True))


def _journal(number: int) -> str:
    return f"gate-{number:06}.log"
