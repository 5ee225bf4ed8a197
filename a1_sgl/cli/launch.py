"""`a1 launch`: start, find and stop runtimes."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.live import Live
from rich.table import Table
from typer.core import TyperGroup

from a1_sgl.cli import common, complete, console, errors
from a1_sgl.cli.app import App, verbose
from a1_sgl.cli.common import STATE, StateDir
from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.launch import devices
from a1_sgl.launch.fit import Load, fits
from a1_sgl.launch.layout import lay_out, specs
from a1_sgl.launch.recipes import Recipe, find_recipe, recipe_of
from a1_sgl.launch.runtimes import Running, Spec, obituary, serve, serving
from a1_sgl.launch.state import State

_SHORT = 1024
"""Tokens of one chain: a dry run warns of what has no room for even that; `a1 doctor` knows of more."""


class Launch(TyperGroup):
    """Takes whatever is no command for what `start` is to start, and what is after ``--`` for flags of the servers."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer's."""
        return super().parse_args(ctx, self.spelt_out(args))

    def spelt_out(self, args: list[str]) -> list[str]:
        """The arguments as a command and its options."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["start", *args]
        if args[:1] == ["start"] and "--" in args:
            at = args.index("--")
            args = [*args[:at], *(f"--both-flags={word}" for word in args[at + 1 :])]
        return args


app = App(
    cls=Launch, help="Start, find and stop SGLang runtimes.", no_args_is_help=True,
    epilog="`a1 launch RECIPE` and `a1 launch --draft MODEL --target MODEL` start them; see `a1 launch start --help`.",
)  # fmt: skip


@app.command()
def start(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="What to serve: see `a1 recipes`; or a YAML file of yours.", autocompletion=complete.launches
        ),
    ] = None,
    draft: Annotated[str | None, typer.Option(metavar="MODEL", help="The draft: a folder or a hub name.")] = None,
    target: Annotated[str | None, typer.Option(metavar="MODEL", help="The target.")] = None,
    verifier: Annotated[str | None, typer.Option(metavar="MODEL", help="A third model that verifies.")] = None,
    draft_flags: Annotated[str, typer.Option(metavar="FLAGS", help="More flags of its SGLang server, in quotes.")] = "",
    target_flags: Annotated[str, typer.Option(metavar="FLAGS", help="Those of the target.")] = "",
    verifier_flags: Annotated[str, typer.Option(metavar="FLAGS", help="Those of the verifier.")] = "",
    both_flags: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="COUNTxGIB", help="Plan for these GPUs, such as 2x80. [default: those here]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the servers' commands and start nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the runtimes running in the background.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds until all must be healthy, downloads included.")] = 1800.0,
    state: StateDir = STATE,
    as_json: common.Json = False,
) -> None:
    """Serve a recipe's pair, or two models of your own; what follows `--` are SGLang flags of all of them."""
    models = {"draft": draft, "target": target, "verifier": verifier}
    flags = {"draft": draft_flags, "target": target_flags, "verifier": verifier_flags}
    wanted = _wanted(recipe, {role: model for role, model in models.items() if model is not None}, flags, both_flags)
    if gpus is not None and not dry_run:
        raise ConfigError(f"--gpus {gpus} plans for a machine that may be another one; give --dry-run with it")
    if not timeout > 0:
        raise ConfigError(f"--timeout is above 0 s, not {timeout:g}")
    here = devices.devices() if gpus is None else devices.planned(gpus)
    plan = specs(wanted, here)
    if any(flags.values()) or both_flags or (recipe is not None and recipe.endswith((".yaml", ".yml"))):
        from a1_sgl.launch.flags import check

        for spec in plan:
            check(spec)
    if dry_run:
        _print_commands(lay_out(wanted, here), plan, bool(here), as_json)
        for fit in fits(wanted, here, Load(1, _SHORT), psutil.virtual_memory().total / 2**30):
            if fit.state == "wrong":
                fix = f"; what would: {fit.change}" if fit.change else ""
                plan_for = "" if here else "; this machine has no GPU, --gpus COUNTxGIB plans for one that has"
                errors.print(
                    f"{fit.role} does not fit: {fit.says}{fix}{plan_for}", style="yellow", markup=False,
                    highlight=False, soft_wrap=True,
                )  # fmt: skip
        return
    store = State(state)
    if detach:
        if store.launcher_alive():  # refused here, and not only by the launcher, whose words are in its log
            with store.held():
                pass
        again = [*([recipe] if recipe is not None else []), *(["--verbose"] if verbose() else [])]
        again += ["--timeout", str(timeout), "--state", str(state)]
        for role in models:
            again += [f"--{role}={models[role]}"] if models[role] is not None else []
            again += [f"--{role}-flags={flags[role]}"] if flags[role] else []
        _show(store, _detached([*again, "--", *(both_flags or ())], state, as_json), as_json)
        return
    waiting = contextlib.nullcontext() if as_json else watching()
    with (
        store.held(),
        terminate_on_sigterm(),
        waiting as progress,
        serve(plan, state / "logs", timeout=timeout, progress=progress) as running,
    ):
        store.write(running)
        try:
            _show(store, running, as_json)
            if not as_json:
                console.print("Ctrl-C stops them.")
            mourned: set[str] = set()
            while serving(running):
                for one in running:
                    if one.name not in mourned and not one.alive():
                        mourned.add(one.name)
                        errors.print(
                            f"{obituary(one)}\nthe others go on", markup=False, highlight=False, soft_wrap=True
                        )
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
        starting = f"runtimes are starting; their logs are in {state / 'logs'}"
        console.print(starting if store.launcher_alive() else f"nothing is launched here ({state})")
        raise typer.Exit(1)
    if not _show(store, running, as_json):
        raise typer.Exit(1)


def _wanted(name: str | None, models: Mapping[str, str], flags: Mapping[str, str], both: list[str] | None) -> Recipe:
    """The recipe that is named, with what the command line changes; without one, the models alone."""
    if name in ("start", "stop", "status"):
        raise ConfigError(f"a1 launch {name}: that word comes first, and its options after it")
    if name is None and not models:
        raise ConfigError("say what to serve: a recipe (see `a1 recipes`), or --draft MODEL --target MODEL")
    recipe = find_recipe(name) if name is not None else recipe_of(models)
    more = {role: _split(role, text) for role, text in flags.items()}
    return recipe.changed(models, {role: [*(both or []) * (role in recipe.parts), *more[role]] for role in more})


def _split(role: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--{role}-flags {text!r}: {error}") from None


def _print_commands(recipe: Recipe, plan: Sequence[Spec], gpu: bool, as_json: bool) -> None:
    """What would be run, as a shell takes it."""
    commands = {spec.name: (spec.environment(gpu), spec.command(spec.port or "PORT", gpu)) for spec in plan}
    if as_json:
        common.as_json({
            "recipe": recipe.model_dump(exclude_none=True),
            "runtimes": [asdict(spec) | {"environment": commands[spec.name][0], "command": commands[spec.name][1]}
                         for spec in plan],
        })  # fmt: skip
        return
    for spec in plan:
        environment, command = commands[spec.name]
        where = f" on GPU {', '.join(spec.devices)}" if spec.devices else "" if gpu else " on the CPU"
        after = f", when the {' and the '.join(spec.after)} is healthy" if spec.after else ""
        words = [*(f"{name}={value}" for name, value in environment.items()), "python", *command[1:]]
        console.print(f"# {spec.name}: {spec.model}{where}{after}", highlight=False, markup=False, soft_wrap=True)
        console.print(shlex.join(words), highlight=False, markup=False, soft_wrap=True)


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


def _detached(arguments: Sequence[str], state: Path, quiet: bool) -> list[Running]:
    """Starts a launcher of its own session and waits until its runtimes are healthy."""
    store, log = State(state), state / "logs" / "launcher.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "a1_sgl.cli", "launch", "start", *arguments],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    with terminate_on_sigterm(), contextlib.nullcontext() if quiet else watching() as progress:
        started = time.monotonic()
        try:
            while not store.launched_by(launcher.pid):
                if launcher.poll() is not None:
                    raise RuntimeFault(log.read_text(errors="replace").strip() or "the launcher ended without a word")
                if progress is not None:
                    progress({"runtimes": f"starting, {time.monotonic() - started:.0f} s"})
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
    """Lets SIGTERM, and SIGHUP of a terminal that is closed, unwind the stack as Ctrl-C does.

    So runtimes are stopped and records closed.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # Under nohup the latter is ignored, and stays so.
    heard = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
