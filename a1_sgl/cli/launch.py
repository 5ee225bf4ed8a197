"""`a1 launch`: start, find and stop runtimes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from a1_sgl.cli import console
from a1_sgl.cli.common import STATE, StateDir
from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.launch.pocket import PAIRS, pocket_specs
from a1_sgl.launch.runtimes import Running, State, serve

app = typer.Typer(help="Start, find and stop SGLang runtimes.", no_args_is_help=True)


@app.command()
def pocket(
    detach: Annotated[bool, typer.Option(help="Leave the runtimes running in the background.")] = False,
    task: Annotated[str, typer.Option(help=f"Whose pair: {' or '.join(PAIRS)}.")] = PAIRS[0],
    state: StateDir = STATE,
) -> None:
    """Serve a pocket pair: a small draft and target that come with the project."""
    specs = pocket_specs(task)
    store = State(state)
    if store.launcher_alive():
        raise ConfigError(f"runtimes are already launched ({store.path}); stop them with `a1 launch stop`")
    if detach:
        running = _detached(task, state)
        _show(running)
        return
    with terminate_on_sigterm(), watching() as progress, serve(specs, state / "logs", progress=progress) as running:
        store.write(running)
        try:
            _show(running)
            console.print("Ctrl-C stops them.")
            while all(one.alive() for one in running):
                time.sleep(0.5)
            dead = next(one for one in running if not one.alive())
            raise RuntimeFault(f"{dead.name} runtime ended by itself; its log: {dead.log}")
        except KeyboardInterrupt:
            console.print("stopping")
        finally:
            store.clear()


@app.command()
def stop(state: StateDir = STATE) -> None:
    """Stop what was launched here."""
    console.print("stopped" if State(state).stop() else "nothing was running")


@app.command()
def status(state: StateDir = STATE) -> None:
    """Show what was launched here; exit status 1 if something is not healthy."""
    running = State(state).runtimes()
    if not running:
        console.print(f"nothing is launched here ({state})")
        raise typer.Exit(1)
    if not _show(running):
        raise typer.Exit(1)


def _show(running: list[Running]) -> bool:
    table = Table(box=None, pad_edge=False)
    for column in ("runtime", "state", "url", "pid", "log"):
        table.add_column(column, overflow="fold")
    healthy = True
    for one in running:
        state = "healthy" if one.healthy() else "not answering" if one.alive() else "dead"
        healthy &= state == "healthy"
        table.add_row(one.name, state, one.url, str(one.pid), one.log)
    console.print(table)
    return healthy


def _detached(task: str, state: Path) -> list[Running]:
    """Starts a launcher of its own session and waits until its runtimes are healthy."""
    store, log = State(state), state / "logs" / "launcher.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "a1_sgl.cli", "launch", "pocket", "--task", task, "--state", str(state)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    with watching() as progress:
        started = time.monotonic()
        try:
            while not store.launcher_alive():
                if launcher.poll() is not None:
                    raise RuntimeFault(log.read_text(errors="replace").strip() or "the launcher ended without a word")
                progress({"pair": f"starting, {time.monotonic() - started:.0f} s"})
                time.sleep(0.5)
        except BaseException:
            launcher.terminate()
            raise
    return list(store.runtimes())


@contextlib.contextmanager
def watching() -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Shows what the runtimes are doing: a live line on a terminal, else one when something changes."""
    if not console.is_terminal:
        seen: dict[str, str] = {}

        def say(state: Mapping[str, str]) -> None:
            for name, what in state.items():
                word = what.partition(",")[0]
                if seen.get(name) != word:
                    seen[name] = word
                    console.print(f"{name}: {word}")

        yield say
        return
    with Live(console=console, transient=True) as live:
        yield lambda state: live.update("   ".join(f"{name}: {what}" for name, what in state.items()))


@contextlib.contextmanager
def terminate_on_sigterm() -> Iterator[None]:
    """Lets SIGTERM unwind the stack as Ctrl-C does, so that runtimes are stopped and records closed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
