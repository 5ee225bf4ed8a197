"""What `a1 eval` makes of faults: ``python -m tests.faults.matrix --out DIR [--only REGEX] [--limit SECONDS]``.

Each case is one fault and one program. The command runs under the fault and then, to resume, without it; `judge` says
what was finished, lost, done twice or left behind. Exit status 1 if any case has a problem.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from ..process import Started, start
from .proxy import ANSWERS, Fault, Proxy

TRANSPORT = ("cut_before", "cut_mid", "busy", "busy_after", "error", "unavailable")
SETTLE = 30.0  # seconds in which the runtimes must have nothing left to do
COLUMNS = (
    "case", "program", "injected", "chains", "finished", "lost", "touched", "resumed", "lost_end", "doubled", "status",
    "hung", "idle_after", "readable", "seconds", "problems",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A fault, the program that meets it, and the exit statuses that are right. `act` is a fault of a process."""

    name: str
    fault: Fault = field(default_factory=Fault)
    program: str = "a1"
    options: tuple[str, ...] = ()
    questions: int = 30
    chains: int = 4
    status: tuple[int, ...] = (0,)
    on: tuple[str, ...] = ("draft", "target")
    act: Callable[[Stage], Iterator[None]] | None = None


class Stage:
    """One case under way. An `act` sets up until its first yield, acts until its second, and mends until its third."""

    def __init__(self, case: Case, out: Path, pair: Pair | None) -> None:
        self.case, self.out, self.pair = case, out, pair
        self.command: list[str] = []
        self.proxies: dict[str, Proxy] = {}
        self.limits: dict[int, int] = {}
        self.problems: list[str] = []
        self.client: Started

    def start(self, log: str) -> Started:
        """Starts the command, in a process group of its own."""
        said = self.out.with_suffix(f".{log}.log")
        return start(*self.command, out=said, err=said, limits=self.limits)

    def until(self, reached: Callable[[], bool]) -> None:
        """Waits for something, or for the client's end."""
        while self.client.poll() is None and not reached():
            time.sleep(0.05)

    def half_way(self) -> None:
        """Waits until a quarter of the chains is finished."""
        self.until(lambda: 4 * len(finished(self.out)) >= self.case.questions * self.case.chains)


class Pair:
    """The pocket pair, the target on a port that it keeps when it is started again."""

    def __init__(self, logs: Path) -> None:
        from a1_sgl.launch.pocket import pocket_specs
        from a1_sgl.launch.processes import free_port
        from a1_sgl.launch.runtimes import serve

        self._serve, self._specs, self._logs, self._stack = serve, pocket_specs(), logs, contextlib.ExitStack()
        self._port = free_port()

    def __enter__(self) -> Pair:
        (draft,) = self._stack.enter_context(self._serve(self._specs[:1], self._logs))
        self.start_target()
        self.urls = {"draft": draft.url, "target": self.target.url}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_target(self) -> None:
        """Starts the target, or starts it again."""
        spec = replace(self._specs[1], port=self._port)
        (self.target,) = self._stack.enter_context(self._serve([spec], self._logs))

    def signal_target(self, number: signal.Signals) -> None:
        """Sends a signal to all of the target's processes."""
        os.killpg(self.target.pid, number)


# --- faults of processes ------------------------------------------------------------------------------------------


def runtime_killed(stage: Stage) -> Iterator[None]:
    yield
    stage.half_way()
    stage.pair.signal_target(signal.SIGKILL)
    stage.pair.start_target()
    yield


def runtime_frozen(stage: Stage) -> Iterator[None]:
    yield
    stage.half_way()
    stage.pair.signal_target(signal.SIGSTOP)
    time.sleep(8)
    stage.pair.signal_target(signal.SIGCONT)
    yield


def client_killed(stage: Stage) -> Iterator[None]:
    yield
    stage.half_way()
    stage.client.kill()
    yield


def client_interrupted(stage: Stage) -> Iterator[None]:
    yield
    stage.half_way()
    stage.client.send_signal(signal.SIGINT)
    yield


def interrupted_while_down(stage: Stage) -> Iterator[None]:
    yield
    stage.until(lambda: any(proxy.injected for proxy in stage.proxies.values()))
    time.sleep(2)
    stage.client.send_signal(signal.SIGINT)
    yield


def second_client(stage: Stage) -> Iterator[None]:
    yield
    stage.until(lambda: bool(finished(stage.out)))
    stage.client.send_signal(signal.SIGSTOP)  # it must not be done before the second one has begun
    try:
        status = _end(stage.start("second"), 120)
    finally:
        stage.client.send_signal(signal.SIGCONT)
    if status != 2:
        stage.problems.append(f"second client ended with {status}")
    yield


def file_limit(stage: Stage) -> Iterator[None]:
    stage.limits[resource.RLIMIT_FSIZE] = 40_000
    yield
    yield
    stage.limits.clear()
    yield


def full_disk(stage: Stage) -> Iterator[None]:
    stage.out.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o"]
    mounted = not subprocess.run([*mount, "size=256k", "tmpfs", stage.out], capture_output=True).returncode
    if not mounted:
        stage.limits[resource.RLIMIT_FSIZE] = 200_000
    try:
        yield
        yield
        stage.limits.clear()
        if mounted:
            subprocess.run([*mount, "remount,size=64m", "tmpfs", stage.out], check=True)
        yield
    finally:
        if mounted:
            kept = stage.out.with_suffix(".kept")
            shutil.copytree(stage.out, kept)
            subprocess.run(["umount", stage.out], check=True)
            shutil.copytree(kept, stage.out, dirs_exist_ok=True)
            shutil.rmtree(kept)


def few_files(stage: Stage) -> Iterator[None]:
    stage.limits[resource.RLIMIT_NOFILE] = 600
    yield


# --- cases --------------------------------------------------------------------------------------------------------


def cases() -> list[Case]:
    """All of the matrix."""
    found = [Case("none")]
    found += [Case(kind, Fault((kind,))) for kind in (*TRANSPORT, *ANSWERS)]
    found += [
        Case("half of the answers cut", Fault(("cut_mid",), share=0.5)),
        Case("silence", Fault(("silence",), share=0.05)),
        Case("unavailable for 10 s", Fault(("unavailable",), share=1, after=100, seconds=10)),
        Case("down for 10 s", Fault(("down",), share=1, after=100, seconds=10)),
        Case("no aborts", Fault(gateway=True)),
    ]
    lasting = Fault(share=0.2, lasting=True)
    found += [
        Case(f"lasting {kind}", replace(lasting, kinds=(kind,)), status=(1,), on=("target",), questions=15)
        for kind in ("error", "nan", "garbage")
    ]
    mixes = {"transport": Fault(TRANSPORT), "answers": Fault(ANSWERS)}
    mixes["all, no aborts"] = Fault((*TRANSPORT, *ANSWERS), gateway=True)
    small = {"questions": 6, "chains": 4}
    for name, fault in mixes.items():
        found += [
            Case(name, fault, "a1_lookahead", **small),
            Case(name, fault, "a1", ("--set", "take_over=resample"), **small),
            Case(name, fault, "self_reject", ("--runtime", "both"), **small),
            Case(name, fault, "self_reject_fork", ("--runtime", "both"), **small),
            Case(name, fault, "best_of_n", ("--runtime", "both"), **small),
            Case(name, fault, "dvts", ("--runtime", "both", "--set", "width=2"), **small),
            Case(name, fault, "tree_of_thought", ("--runtime", "both", "--set", "proposals=2"), **small),
        ]
    down = Fault(("down",), share=1, after=200)
    found += [
        Case("runtime killed", act=runtime_killed),
        Case("runtime frozen", act=runtime_frozen),
        Case("client killed", act=client_killed, status=(-9,)),
        Case("client interrupted", act=client_interrupted, status=(130,)),
        Case("interrupted, no aborts", Fault(gateway=True), act=client_interrupted, status=(130,)),
        Case("interrupted while down", down, act=interrupted_while_down, status=(130,)),
        Case("second client", act=second_client),
        Case("full disk", act=full_disk, status=(2,)),
        Case("limit on the size of files", act=file_limit, status=(2,)),
        Case("few files", options=("--in-flight", "1000"), questions=100, chains=8, act=few_files),
    ]
    return found


# --- judging ------------------------------------------------------------------------------------------------------


def judge(case: Case, urls: Mapping[str, str], out: Path, *, limit: float = 300.0, pair: Pair | None = None) -> dict:
    """Runs a case and its resumption in folder `out`, with logs beside it; one row of the table."""
    stage, planned, began = Stage(case, out, pair), case.questions * case.chains, time.monotonic()
    script = case.act(stage) if case.act else iter(())
    with contextlib.ExitStack() as stack:
        for number, name in enumerate(urls):
            if case.fault != Fault():
                fault = replace(case.fault if name in case.on else Fault(), seed=case.fault.seed + number)
                stage.proxies[name] = stack.enter_context(Proxy(urls[name], fault))
        spoken_to = {name: stage.proxies[name].url if name in stage.proxies else url for name, url in urls.items()}
        stage.command = [
            "-m", "a1_sgl.cli", "eval", "--out", str(out), "--quiet", "--program", case.program,
            "--questions", str(case.questions), "--chains", str(case.chains), *case.options,
        ]  # fmt: skip
        for name, url in spoken_to.items():
            stage.command += [f"--{name}", url]
        next(script, None)
        stage.client = stage.start("first")
        try:
            next(script, None)
            first = _end(stage.client, limit)
            idle, seconds, at_first = settled(urls), time.monotonic() - began, finished(out)
            readable = _readable(out)  # where it was killed, some chains have no grade yet
            injected = sum((proxy.injected for proxy in stage.proxies.values()), Counter())
            touched = max((len(proxy.touched) for proxy in stage.proxies.values()), default=0) * case.chains
            for proxy in stage.proxies.values():
                proxy.fault = Fault()
            next(script, None)
            second = _end(stage.start("resumed"), limit)
            settled(urls)
        finally:
            _end(stage.client, 0)
            in_the_end, readable = finished(out), readable and _readable(out, graded=True)
            script.close() if case.act else None
    lost, lost_end = planned - len(at_first), planned - len(in_the_end)
    doubled = sum(count - 1 for count in in_the_end.values())
    ended_early = case.status not in ((0,), (1,))
    said = "".join(out.with_suffix(f".{log}.log").read_text(errors="replace") for log in ("first", "resumed"))
    checks = {
        f"{lost} lost": lost > touched and not ended_early,
        f"ended with {first}": first not in (*case.status, None),
        f"resumed ended with {second}": second not in (0, None),
        f"{lost_end} lost for good": lost_end > 0,
        "some twice": doubled > 0,
        "hung": first is None or second is None,
        "runtimes still busy": idle is None,
        "record not readable": not readable,
        "traceback": "Traceback (most recent call last)" in said,
    }
    row = {
        "case": case.name, "program": " ".join((case.program, *case.options)), "injected": sum(injected.values()),
        "chains": planned, "finished": len(at_first), "lost": lost, "touched": touched,
        "resumed": len(in_the_end) - len(at_first), "lost_end": lost_end, "doubled": doubled,
        "status": f"{first}/{second}", "hung": first is None or second is None, "idle_after": idle,
        "readable": readable, "seconds": round(seconds, 1),
    }  # fmt: skip
    return row | {"problems": [*stage.problems, *(what for what, wrong in checks.items() if wrong)]}


def finished(out: Path) -> Counter[tuple[str, int]]:
    """How often each chain has a whole line in the record."""
    try:
        lines = (out / "chains.jsonl").read_bytes().split(b"\n")[:-1]
        return Counter((chain["question"], chain["sample"]) for chain in map(json.loads, lines))
    except (OSError, ValueError, KeyError):
        return Counter()


def settled(urls: Mapping[str, str]) -> float | None:
    """Seconds until no runtime has anything left to do; None if it never comes to that."""
    began = time.monotonic()
    while time.monotonic() - began < SETTLE:
        with contextlib.suppress(httpx.HTTPError):
            if all(httpx.post(f"{url}/flush_cache", timeout=5).status_code == 200 for url in urls.values()):
                return round(time.monotonic() - began, 1)
        time.sleep(0.1)
    return None


def _readable(out: Path, graded: bool = False) -> bool:
    from a1_sgl.errors import A1Error
    from a1_sgl.records import RunFolder

    try:
        found = RunFolder.read(out)
        return len(found.chains if graded else found.finished) == sum(finished(out).values())
    except (A1Error, OSError, ValueError):
        return False


def _end(process: Started, limit: float) -> int | None:
    """The exit status; None if it hung, and then its log has the stacks of all its threads."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def table(rows: list[dict[str, Any]]) -> str:
    """The rows, aligned."""
    cells = [COLUMNS, *([_cell(row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def _cell(value: Any) -> str:
    return "; ".join(value) if isinstance(value, list) else "-" if value is None else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder for runs, logs and the table")
    parser.add_argument("--only", default="", help="cases whose 'name program' matches this expression")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a run has hung")
    asked = parser.parse_args()
    chosen = [case for case in cases() if re.search(asked.only, f"{case.name} {case.program}")]
    rows: list[dict[str, Any]] = []
    asked.out.mkdir(parents=True)
    with Pair(asked.out / "runtimes") as pair:
        for number, case in enumerate(chosen):
            out = asked.out / re.sub(r"\W+", "-", f"{number:02} {case.name} {case.program}")
            rows.append(judge(case, pair.urls, out, limit=asked.limit, pair=pair))
            print(f"{number + 1}/{len(chosen)}", rows[-1], flush=True)
            (asked.out / "rows.json").write_text(json.dumps(rows, indent=1))
            (asked.out / "table.txt").write_text(table(rows) + "\n")
    print(table(rows))
    return any(row["problems"] for row in rows)


if __name__ == "__main__":
    sys.exit(main())
