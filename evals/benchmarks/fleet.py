"""Two targets: listed, or behind SGLang's gateway: ``python -m a1_sgl.evals.benchmarks.fleet --out runs/fleet``.

Chains of `a1` with six chunks of sixteen tokens, whatever they say, and a gate that hands over a quarter of them, so
that every row is the same work, on the pocket pair of `chain`: one draft, and its target twice. Runs are interleaved
and begin with empty prefix caches. On as few cores as one target keeps busy two are no faster; what the rows say is how
much of what a target is sent it finds in its cache, and how the work is spread.

The second part kills the second target in mid-run (SIGKILL), starts it again and looks whether it is used, and has one
join a gateway in mid-run. A folder that holds finished rows is gone on with. Writes ``fleet.json``; needs the extra
``gateway``.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Self

import httpx
import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.errors import RuntimeFault
from a1_sgl.evals.runner import evaluate
from a1_sgl.evals.speed.arms import Bench, Fixed
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.gateway import gateway
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.launch.processes import free_port
from a1_sgl.launch.runtimes import Running, serve
from a1_sgl.records import Recorder
from a1_sgl.session import Backend
from a1_sgl.types import calls_of

TASK = "chain"
FIXED = Fixed(6, 16)
MEMORY = ("--max-total-tokens", "50000")
"""Three runtimes are to fit beside each other; a run needs half as much."""
POLICIES = ("round_robin", "cache_aware", "manual")
ONE, LISTED = "one target", "both listed"
BEHIND = {policy: f"gateway, {policy}" for policy in POLICIES}
STARTED, READY = 900.0, 60.0
"""Seconds for three runtimes to start on a busy machine, and for one that has come back to be used again."""


@dataclass(frozen=True)
class Level:
    """How much there is to do at once: chains in flight, questions, and chains of each."""

    in_flight: int
    questions: int
    chains: int = 4


LOW, HIGH = Level(2, 4), Level(32, 12)


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        event: what happened meanwhile: nothing, ``killed``, ``back`` after that, or ``joined``.
        sent, cached: tokens of prompts that the target was sent, and those of them that it had in its cache.
        requests: that each target answered, by its own count.
    """

    arm: str
    event: str
    in_flight: int
    chains: int
    lost: int
    wall_s: float
    sent: int
    cached: int
    requests: tuple[int, int]

    @property
    def speed(self) -> float:
        """Tokens of finished chains a second."""
        return (self.chains - self.lost) * FIXED.turns * FIXED.tokens / self.wall_s

    @property
    def share(self) -> float:
        """Of the tokens sent, those that were in a cache."""
        return self.cached / self.sent

    @property
    def second(self) -> float:
        """Of the requests, those that the second target answered."""
        return self.requests[1] / sum(self.requests)


class Targets:
    """The pocket draft and two targets, the second of which can be killed and started again where it was."""

    def __init__(self, logs: Path) -> None:
        self._logs, self._stack = logs, ExitStack()
        self._draft, target = (replace(one, flags=(*one.flags, *MEMORY)) for one in pocket_specs(TASK))
        self._first, self._second = replace(target, name="target-a"), replace(target, name="target-b", port=free_port())

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            draft, first, second = stack.enter_context(
                serve([self._draft, self._first, self._second], self._logs, timeout=STARTED)
            )
            self.draft, self.first, self.second = draft.url, first.url, second.url
            self._running: Running = second
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill(self) -> None:
        """Ends the second target, with no time to say so."""
        os.killpg(self._running.pid, signal.SIGKILL)

    def restart(self) -> None:
        """Starts it again where it was."""
        (self._running,) = self._stack.enter_context(serve([self._second], self._logs, timeout=STARTED))

    def answered(self) -> tuple[int, int]:
        """Requests that each target has answered since it was started."""
        return _answered(self.first), _answered(self.second)


def _answered(url: str) -> int:
    try:
        text = httpx.get(f"{url}/metrics", timeout=10.0, trust_env=False, follow_redirects=True).text
    except httpx.HTTPError:
        return 0
    return sum(int(float(one)) for one in re.findall(r"^sglang:num_requests_total\{.*\} (\S+)$", text, re.MULTILINE))


def join(at: str, worker: str) -> None:
    """Tells a gateway of a worker."""
    answer = httpx.post(f"{at}/workers", json={"url": worker}, timeout=10.0, trust_env=False)
    if answer.status_code != 202:
        raise RuntimeFault(f"the gateway at {at} does not take {worker}: {answer.status_code} {answer.text[:200]}")


def run(
    targets: Targets,
    backend: Backend,
    level: Level,
    folder: Path,
    arm: str,
    event: str = "",
    act: Callable[[], None] | None = None,
) -> Row:
    """A run in `folder`, or the one that it holds; `act` is done once a quarter of the chains is finished."""
    kept = folder / "row.json"
    if kept.exists():
        found = json.loads(kept.read_text())
        return Row(**found | {"requests": tuple(found["requests"])})
    bench = Bench(
        task=find_task(TASK), questions=level.questions, chains=level.chains, alpha=0.25, arms=("a1",), fixed=FIXED,
        paced=True, in_flight=level.in_flight,
    )  # fmt: skip
    acts = [act] if act else []

    def watch(recorder: Recorder, planned: int) -> None:
        if acts and 4 * len(recorder.folder.finished) >= planned:
            acts.pop()()

    backend.flush_cache()
    before = targets.answered()
    done, summary = evaluate(bench.plan("a1"), backend, folder, watch, overwrite=True)
    if acts:
        raise RuntimeFault(f"{folder}: the run was over before anything could happen; it needs more questions")
    # A target that was killed in between has no count of what it had answered, and one that was begun anew no other.
    after = targets.answered()
    calls = [call for call in calls_of(done.events) if call.role == "target"]
    row = Row(
        arm, event, level.in_flight, level.questions * level.chains, summary["chains_lost"], summary["wall_s"],
        sum(call.prompt_tokens for call in calls), sum(call.cached_tokens for call in calls),
        (after[0] - before[0], max(0, after[1] - before[1])),
    )  # fmt: skip
    kept.write_text(json.dumps(asdict(row)))
    return row


def steady(targets: Targets, out: Path, repeats: int) -> list[Row]:
    """Every way to reach the targets, at both levels; every second round is the one before it backwards."""
    rows = []
    with ExitStack() as stack:
        where: dict[str, str | list[str]] = {ONE: targets.first, LISTED: [targets.first, targets.second]}
        for policy, arm in BEHIND.items():
            at = stack.enter_context(gateway([targets.first, targets.second], out / "logs", name=policy, policy=policy))
            where[arm] = at.url
        for number in range(repeats):
            for arm in list(where)[:: -1 if number % 2 else 1]:
                for level in (LOW, HIGH):
                    with Backend.connect(targets.draft, where[arm], in_flight=level.in_flight) as backend:
                        folder = out / f"round-{number + 1}" / f"{_name(arm)}-{level.in_flight}"
                        rows.append(run(targets, backend, level, folder, arm))
                        _tell(rows[-1])
    return rows


def killed(targets: Targets, out: Path, repeats: int) -> list[Row]:
    """The second target dies in mid-run, comes back, and is used again."""
    rows = []
    with ExitStack() as stack:
        where: dict[str, str | list[str]] = {LISTED: [targets.first, targets.second]}
        for policy in POLICIES[1:]:
            at = stack.enter_context(gateway([targets.first, targets.second], out / "logs", name=policy, policy=policy))
            where[BEHIND[policy]] = at.url
        for number in range(repeats):
            for arm, urls in where.items():
                folder = out / f"killed-{number + 1}" / _name(arm)
                with Backend.connect(targets.draft, urls, in_flight=HIGH.in_flight) as backend:
                    rows.append(run(targets, backend, HIGH, folder / "killed", arm, "killed", targets.kill))
                    _tell(rows[-1])
                    targets.restart()
                    _all_there(backend)
                    rows.append(run(targets, backend, HIGH, folder / "back", arm, "back"))
                    _tell(rows[-1])
    return rows


def _all_there(backend: Backend) -> None:
    """Waits until caches can be emptied everywhere, which a member that is taken for dead prevents."""
    deadline = time.monotonic() + READY
    while True:
        try:
            return backend.flush_cache()
        except RuntimeFault:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def joined(targets: Targets, out: Path, repeats: int) -> list[Row]:
    """A gateway before one target is told of the second in mid-run."""
    rows = []
    for number in range(repeats):
        for policy in POLICIES[1:]:
            with gateway([targets.first], out / "logs", name=f"{policy}-joined", policy=policy) as at:

                def act(url: str = at.url) -> None:
                    join(url, targets.second)

                with Backend.connect(targets.draft, at.url, in_flight=HIGH.in_flight) as backend:
                    folder, arm = out / f"joined-{number + 1}" / policy, BEHIND[policy]
                    rows.append(run(targets, backend, HIGH, folder, arm, "joined", act))
                    _tell(rows[-1])
    return rows


def table(rows: Sequence[Row]) -> Table:
    """Median and range of each kind of row."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "targets",
        "meanwhile",
        "in flight",
        "tokens/s",
        "cached",
        "computed",
        "by the second",
        "chains",
        "lost",
    ):
        shown.add_column(name, justify="left" if name in ("targets", "meanwhile") else "right", no_wrap=True)
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.event, row.arm, row.in_flight), []).append(row)

    def spread(values: Sequence[float], form: str) -> str:
        low, middle, high = (format(one, form) for one in (min(values), statistics.median(values), max(values)))
        return middle if low == high else f"{middle} [{low}, {high}]"

    for (event, arm, in_flight), some in groups.items():
        shown.add_row(
            arm, event, str(in_flight), spread([one.speed for one in some], ".0f"),
            spread([one.share for one in some], ".1%"), spread([one.sent - one.cached for one in some], ",.0f"),
            "-" if event == "killed" else spread([one.second for one in some], ".0%"),
            str(sum(one.chains for one in some)), str(sum(one.lost for one in some)),
        )  # fmt: skip
    return shown


def _name(arm: str) -> str:
    return re.sub(r"\W+", "-", arm)


def _tell(row: Row) -> None:
    console.print(f"{row.arm} {row.event} {row.in_flight}: {row.wall_s:.1f} s", style="dim", highlight=False)


console = Console(width=130)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    repeats: Annotated[int, typer.Option(help="Runs of each row.")] = 3,
    events: Annotated[bool, typer.Option(help="Also a target that dies, and one that joins.")] = True,
) -> None:
    """Throughput, cached share and balance of two targets, by how they are reached."""
    with Targets(out / "logs") as targets:
        rows = steady(targets, out, repeats)
        if events:
            rows += [*killed(targets, out, repeats), *joined(targets, out, repeats)]
    (out / "fleet.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    console.print(table(rows))


if __name__ == "__main__":
    typer.run(main)
