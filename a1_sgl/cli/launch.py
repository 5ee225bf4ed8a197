"""`a1 launch`: start, find and stop runtimes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from a1_sgl.cli import common, complete, console
from a1_sgl.cli.app import App
from a1_sgl.cli.common import STATE, StateDir
from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.launch.pocket import PAIRS, pocket_specs
from a1_sgl.launch.runtimes import Running, State, obituary, serve

app = App(help="Start, find and stop SGLang runtimes.", no_args_is_help=True)


@app.command()
def pocket(
    detach: Annotated[bool, typer.Option(help="Leave the runtimes running in the background.")] = False,
    task: Annotated[
        str, typer.Option(help=f"Whose pair: {' or '.join(PAIRS)}.", autocompletion=complete.pairs)
    ] = PAIRS[0],
    state: StateDir = STATE,
    as_json: common.Json = False,
) -> None:
    """Serve a pocket pair: a small draft and target that come with the project."""
    specs = pocket_specs(task)
    store = State(state)
    if store.launcher_alive():
        raise ConfigError(f"runtimes are already launched ({store.path}); stop them with `a1 launch stop`")
    if detach:
        _show(store, _detached(task, state, as_json), as_json)
        return
    waiting = contextlib.nullcontext() if as_json else watching()
    with terminate_on_sigterm(), waiting as progress, serve(specs, state / "logs", progress=progress) as running:
        store.write(running)
        try:
            _show(store, running, as_json)
            if not as_json:
                console.print("Ctrl-C stops them.")
            while all(one.alive() for one in running):
                time.sleep(0.5)
        except KeyboardInterrupt:
            if not as_json:
                console.print("stopping")
            store.clear()
            return
        except BaseException:
            store.clear()
            raise
        what = "\n".join(obituary(one) for one in running if not one.alive())
        store.end(what)
        raise RuntimeFault(f"{what}\nthe other runtimes were stopped; `a1 launch status` says this again")


@app.command()
def stop(state: StateDir = STATE) -> None:
    """Stop what was launched here."""
    console.print("stopped" if State(state).stop() else "nothing was running")


@app.command()
def status(state: StateDir = STATE, as_json: common.Json = False) -> None:
    """Show what was launched here, and why it ended if it did; exit status 1 if something is not healthy."""
    store = State(state)
    running = store.runtimes()
    if not running and not as_json:
        console.print(f"nothing is launched here ({state})")
        raise typer.Exit(1)
    if not _show(store, running, as_json):
        raise typer.Exit(1)


def _show(store: State, running: list[Running], as_json: bool) -> bool:
    """The runtimes, and why they ended if they did; True if there are some and all are healthy."""
    states = {one.name: "healthy" if one.healthy() else "not answering" if one.alive() else "dead" for one in running}
    if as_json:
        rows = [asdict(one) | {"state": states[one.name]} for one in running]
        common.as_json({"runtimes": rows, "ended": store.ended and store.ended.model_dump()})
        return set(states.values()) == {"healthy"}
    table = Table(box=None, pad_edge=False)
    for column in ("runtime", "state", "url", "pid", "log"):
        table.add_column(column, overflow="fold", no_wrap=column in ("url", "pid"))
    for one in running:
        table.add_row(one.name, states[one.name], one.url, str(one.pid), one.log)
    console.print(table)
    if (ended := store.ended) is not None:
        when = time.strftime("%H:%M:%S on %d %B", time.localtime(ended.at))
        console.print(f"\n{ended.what}\nThat was at {when}; the other runtimes were stopped.", markup=False,
                      highlight=False, soft_wrap=True)  # fmt: skip
    elif running and not store.launcher_alive():
        console.print("\nTheir launcher was killed, and they ended with it; the logs are still there.", highlight=False)
    return set(states.values()) == {"healthy"}


def _detached(task: str, state: Path, quiet: bool) -> list[Running]:
    """Starts a launcher of its own session and waits until its runtimes are healthy."""
    store, log = State(state), state / "logs" / "launcher.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "a1_sgl.cli", "launch", "pocket", "--task", task, "--state", str(state)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    with contextlib.nullcontext() if quiet else watching() as progress:
        started = time.monotonic()
        try:
            while not store.launcher_alive():
                if launcher.poll() is not None:
                    raise RuntimeFault(log.read_text(errors="replace").strip() or "the launcher ended without a word")
                if progress is not None:
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
