"""What a chain costs its client: ``python -m a1_sgl.evals.benchmarks.client``.

Each row is a process of its own in which `a1` runs so many chains at once, or a bare event loop that sends the same
requests with aiohttp and orjson and looks at nothing. Runtimes are the pocket pair, a runtime without a model in
another process (``server``), and an engine in this one (``in-process``, where there is no HTTP at all). CPU is this
process's own, without its imports and connections; memory is the growth of the resident set at its largest, less the
ids and texts that the chains are, over chains in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.evals.benchmarks.fake_runtime import CHUNK

if TYPE_CHECKING:
    from a1_sgl.testing import FakeEngine
    from a1_sgl.types import Listener

IN_FLIGHT = (1, 64, 256, 1000)
CHAINS = 4
"""Chains of a question."""
TURNS = 8


@dataclass(frozen=True)
class Case:
    """One row: who sends, to what, and how much.

    Attributes:
        client: ``a1`` or ``bare``.
        to: ``pocket``, ``server`` or ``in-process``.
        urls: of draft and target.
        prompt: tokens of a question's prompt, about.
        rounds: how often the chains in flight are replaced.
    """

    client: str
    to: str
    in_flight: int
    prompt: int
    urls: tuple[str, ...] = ()
    rounds: int = 1

    @property
    def questions(self) -> int:
        """How many."""
        return max(1, self.in_flight * self.rounds // min(CHAINS, self.in_flight))

    @property
    def chains(self) -> int:
        """Of a question."""
        return min(CHAINS, self.in_flight)


def main(
    only: Annotated[str, typer.Option(help="Rows of pocket, server or in-process alone.")] = "",
    repeats: Annotated[int, typer.Option(help="Processes for each row; the median and the range are shown.")] = 3,
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """CPU, threads, memory and open files of a client, by chains in flight."""
    if one:
        print(json.dumps(measure(Case(**json.loads(one)))))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "client", "to", "in flight", "prompt", "chains", "calls", "CPU ms/call [range]", "CPU ms/chain", "threads",
        "KB/chain", "files", "calls/s",
    ):  # fmt: skip
        table.add_column(name, justify="left" if name in ("client", "to") else "right")
    console = Console(width=130)
    for case in cases(only):
        found = [run(case) for _ in range(repeats)]
        cpu = sorted(1000 * one["cpu"] / one["calls"] for one in found)
        first = found[0]
        table.add_row(
            case.client, case.to, str(case.in_flight), f"{case.prompt:,}", str(first["chains"]), f"{first['calls']:,}",
            f"{statistics.median(cpu):.2f} [{cpu[0]:.2f}, {cpu[-1]:.2f}]",
            f"{statistics.median(1000 * one['cpu'] / one['chains'] for one in found):.1f}",
            str(max(one["threads"] for one in found)),
            f"{statistics.median(one['bytes'] / one['in_flight'] / 1024 for one in found):.0f}",
            str(max(one["files"] for one in found)),
            f"{statistics.median(one['calls'] / one['wall'] for one in found):,.0f}",
        )  # fmt: skip
        console.print(f"{case.client} to {case.to}, {case.in_flight} in flight: done", style="dim", highlight=False)
    console.print(table)


def cases(only: str) -> Iterator[Case]:
    """The rows, with runtimes served while they last."""
    for to in ("in-process", "server", "pocket"):
        if only not in ("", to):
            continue
        with _served(to) as urls:
            for prompt in (100,) if to == "pocket" else (100, 30_000):
                for in_flight in IN_FLIGHT:
                    rounds = max(1, min(64, (400 if to == "pocket" else 2000 if prompt == 100 else 100) // in_flight))
                    for client in ("a1",) if to == "in-process" else ("bare", "a1"):
                        yield Case(client, to, in_flight, prompt, urls, rounds)


def run(case: Case) -> dict[str, Any]:
    """Measures `case` in a process of its own."""
    command = [sys.executable, "-m", "a1_sgl.evals.benchmarks.client", "--one", json.dumps(asdict(case))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def _served(to: str) -> Iterator[tuple[str, ...]]:
    if to == "in-process":
        yield ()
    elif to == "pocket":
        from a1_sgl.launch.pocket import pocket_specs
        from a1_sgl.launch.runtimes import serve

        with tempfile.TemporaryDirectory() as logs, serve(pocket_specs(), Path(logs)) as runtimes:
            yield tuple(one.url for one in runtimes)
    else:
        with _fake() as draft, _fake() as target:
            yield draft, target


@contextlib.contextmanager
def _fake() -> Iterator[str]:
    command = [sys.executable, "-m", "a1_sgl.evals.benchmarks.fake_runtime"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


# --- one row ------------------------------------------------------------------------------------------------------


class _Watch:
    """Largest number of threads, open files and resident bytes, looked at every 20 ms."""

    def __init__(self) -> None:
        self._process, self._over = psutil.Process(), threading.Event()
        self.threads = self.files = self.rss = 0
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> _Watch:
        self.before = self._process.memory_info().rss
        self._thread.start()
        self._cpu, self._began = time.process_time(), time.monotonic()
        return self

    def __exit__(self, *exc: object) -> None:
        self.cpu, self.wall = time.process_time() - self._cpu, time.monotonic() - self._began
        self._over.set()
        self._thread.join()
        self.cpu -= self._own

    def _work(self) -> None:
        while not self._over.wait(0.02):
            self.threads = max(self.threads, self._process.num_threads())
            self.files = max(self.files, self._process.num_fds())
            self.rss = max(self.rss, self._process.memory_info().rss)
        self._own = time.thread_time()


Driven = tuple[int, int, _Watch]


def measure(case: Case) -> dict[str, Any]:
    """Runs a row here."""
    calls, text, watch = _bare(case) if case.client == "bare" else drive(case)
    return {
        "calls": calls, "chains": case.questions * case.chains, "in_flight": case.in_flight, "cpu": watch.cpu,
        "wall": watch.wall, "threads": watch.threads, "files": watch.files,
        "bytes": max(0, watch.rss - watch.before - text),
    }  # fmt: skip


def _prompts(case: Case) -> list[str]:
    """A question for each number, of about so many tokens."""
    words = max(1, (case.prompt - 40) // 4)
    return [f"Question {number}. Start with 17. " + "Add 8. " * words for number in range(case.questions)]


def drive(case: Case, listener: Listener | None = None, engine: type[FakeEngine] | None = None) -> Driven:
    """Has `a1` do a row.

    Args:
        listener: hears of all of it.
        engine: what an engine in this process is; None is `FakeEngine`.

    Returns:
        Requests, bytes that ids and texts of the chains in flight take, and what was watched.
    """
    from a1_sgl.conformal import make
    from a1_sgl.engine import submit
    from a1_sgl.programs import a1
    from a1_sgl.session import Backend, Roles
    from a1_sgl.testing import FakeEngine
    from a1_sgl.types import ChainEvent, Event, calls_of

    counted = {"calls": 0, "chains": 0}

    def hear(event: Event) -> None:
        if listener is not None:
            listener(event)
        counted["calls"] += len(calls_of([event]))
        counted["chains"] += isinstance(event, ChainEvent)

    if case.to == "in-process":
        # Texts of as many bytes as there would be tokens, since its tokens are bytes.
        engines = [(engine or FakeEngine)("17+8=25.\n" * 9, delay=0.01, cache=False, remember=False) for _ in range(2)]
        backend = Backend(Roles.pair(*engines), in_flight=case.in_flight)
        asked = ["x" * case.prompt for _ in range(case.questions)]
    else:
        backend = Backend.connect(*case.urls, in_flight=case.in_flight)
        asked = _prompts(case)
    gate, turns = make("marginal", 0.25), TURNS if case.to != "pocket" else 24

    async def all_() -> None:
        going = asyncio.Semaphore(max(1, 2 * case.in_flight // case.chains))

        async def one(question: str) -> None:
            async with going:
                await a1.arun(
                    question=question, gate=gate, samples=case.chains, backend=backend, listener=hear, turns=turns,
                    draft_tokens=32, target_tokens=32, stop=["\n"], temperature=0.6,
                )  # fmt: skip

        await asyncio.gather(*map(one, asked))

    with backend:
        a1.run(question="Start with 17. Add 8.", gate=make("marginal", 0.25), backend=backend, turns=1, stop=["\n"])
        with _Watch() as watch:
            submit(all_()).result()
    assert counted["chains"] == case.questions * case.chains, counted
    # Of every chain in flight, ids of four bytes and the text itself.
    each = 4 * (case.prompt + TURNS * CHUNK) + len(asked[0]) + 2 * TURNS * CHUNK
    return counted["calls"], case.in_flight * each, watch


def _bare(case: Case) -> Driven:
    import aiohttp
    import numpy as np
    import orjson
    import uvloop

    headers = {"Content-Type": "application/json"}
    counted = 0

    async def chain(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal counted
        ids = np.full(case.prompt, 100 + number % 200, dtype=np.int32)
        more = np.full(CHUNK, 99, dtype=np.int32)
        for turn in range(TURNS):
            draft = {"max_new_tokens": CHUNK, "temperature": 0.6, "ignore_eos": True}
            longer = np.concatenate([ids, more])
            score = {"return_logprob": True, "logprob_start_len": len(ids) - 1}
            for url, payload in (
                (case.urls[0], {"input_ids": ids, "sampling_params": draft}),
                (case.urls[1], {"input_ids": longer, "sampling_params": {"max_new_tokens": 0}, **score}),
            ):
                body = orjson.dumps({**payload, "rid": f"{number}-{turn}-{url}-{len(payload)}"}, option=_NUMPY)
                async with session.post(f"{url}/generate", data=body, headers=headers) as response:
                    orjson.loads(await response.read())
                counted += 1
            ids = longer

    async def all_() -> _Watch:
        places = asyncio.Semaphore(case.in_flight)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=180)
        # SGLang hangs up after five idle seconds, and this loop does not send anything twice.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def one(number: int) -> None:
                async with places:
                    await chain(session, number)

            with _Watch() as watch:
                await asyncio.gather(*(one(number) for number in range(case.questions * case.chains)))
            return watch

    _NUMPY = orjson.OPT_SERIALIZE_NUMPY
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        watch = runner.run(all_())
    return counted, case.in_flight * 4 * (case.prompt + TURNS * CHUNK), watch


if __name__ == "__main__":
    typer.run(main)
