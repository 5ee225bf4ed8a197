"""How a run is doing, while it runs: a live display on a terminal, else a line now and then."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from a1_sgl.cli import console, errors

if TYPE_CHECKING:
    from a1_sgl.evals.runner import Progress as Report
    from a1_sgl.records import Recorder, RunFolder


@contextmanager
def progress(title: str, quiet: bool, note: str = "") -> Iterator[Report | None]:
    """What `evaluate` reports to; None if nothing is to be shown. A `note` comes first, once the run has begun."""
    if quiet:
        yield None
    elif note:
        with progress(title, quiet) as shown:
            yield _Noted(shown, note) if shown is not None else None
    elif console.is_terminal:
        with _Display(title) as display:
            yield display
    else:
        yield _Lines(title)


class _Noted:
    """Says something before the first report."""

    def __init__(self, shown: Report, note: str) -> None:
        self._shown, self._note = shown, note

    def __call__(self, recorder: Recorder, planned: int) -> None:
        if self._note:
            errors.print(self._note, markup=False, highlight=False, soft_wrap=True)
            self._note = ""
        self._shown(recorder, planned)


class State:
    """Counts over a run's events, each looked at once, and what is said of them."""

    def __init__(self) -> None:
        self._folder: RunFolder | None = None
        self._clear()

    def _clear(self) -> None:
        self._begun = time.time()
        self._chains = self._graded = self._events = self._now = self._decisions = self._taken = 0
        self._right: defaultdict[str, list[bool]] = defaultdict(list)
        self._decoded: Counter[str] = Counter()

    def see(self, recorder: Recorder) -> None:
        """Takes in what is new. Speed is that of this session alone; accuracy is over what is graded so far."""
        from a1_sgl.types import VerdictEvent, calls_of

        folder = recorder.folder
        if folder is not self._folder:  # one run after another
            self._clear()
            self._folder = folder
        self._begun = folder.run["sessions"][-1]
        finished, graded = folder.finished[self._chains :], folder.chains[self._graded :]
        events = folder.events[self._events :]
        self._chains, self._graded = self._chains + len(finished), self._graded + len(graded)
        self._events += len(events)
        self._now += sum(chain.ended >= self._begun for chain in finished)
        for chain in graded:
            if chain.ending != "stopped":
                self._right[chain.question].append(chain.correct)
        for event in events:
            if isinstance(event, VerdictEvent):
                self._decisions += 1
                self._taken += event.take_over
        for call in calls_of(events):
            if call.ended >= self._begun:
                self._decoded[call.role] += call.completion_tokens

    def accuracy(self) -> str:
        """Running accuracy with its interval, and the take-over rate."""
        from a1_sgl.evals.estimators import clustered

        if not self._right:
            return ""
        found = clustered([statistics.fmean(one) for one in self._right.values()], self._graded)
        said = f"accuracy {found['mean']:.1%} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
        return said + (f", taken over {self._taken / self._decisions:.1%}" if self._decisions else "")

    def speed(self, planned: int) -> str:
        """Tokens a second of each role, and the time that is left at this session's pace."""
        took, done = time.time() - self._begun, self._now
        if not done or took <= 0:
            return ""
        said = ", ".join(f"{name} {count / took:,.0f} tok/s" for name, count in sorted(self._decoded.items()) if count)
        left = (planned - self._chains) * took / done
        return f"{said}, {_time(left)} left" if said else f"{_time(left)} left"


class _Display:
    """A bar, and below it how the run is doing."""

    def __init__(self, title: str) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TextColumn("chains"),
            TimeElapsedColumn(), console=console,
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=None)
        self._live = Live(self._bar, console=console, refresh_per_second=4)
        self._state = State()

    def __enter__(self) -> _Display:
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(None, None, None)

    def __call__(self, recorder: Recorder, planned: int) -> None:
        self._state.see(recorder)
        self._bar.update(self._task, total=planned, completed=len(recorder.folder.finished))
        lines = [self._state.accuracy(), self._state.speed(planned), _lost(recorder)]
        self._live.update(Group(self._bar, *(Text(f"  {line}") for line in lines if line)))


class _Lines:
    """A plain line at every tenth of the way and at least twice a minute, beside what the command prints."""

    def __init__(self, title: str) -> None:
        self._title, self._tenths, self._last = title, -1, time.monotonic()
        self._state = State()

    def __call__(self, recorder: Recorder, planned: int) -> None:
        self._state.see(recorder)
        done = len(recorder.folder.finished)
        tenths = 10 * done // planned
        if tenths > self._tenths or time.monotonic() - self._last > 30:
            self._tenths, self._last = tenths, time.monotonic()
            said = [f"{done}/{planned} chains", self._state.accuracy(), self._state.speed(planned), _lost(recorder)]
            errors.print(f"{self._title}: {', '.join(filter(None, said))}", highlight=False, soft_wrap=True)


def _lost(recorder: Recorder) -> str:
    return f"{len(recorder.lost)} chains lost" if recorder.lost else ""


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
