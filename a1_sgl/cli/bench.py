"""`a1 bench`: how fast A1 is on a pair of runtimes, and what the runtimes could do at most."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from a1_sgl.cli import common, console, errors
from a1_sgl.cli.app import App
from a1_sgl.cli.progress import progress
from a1_sgl.cli.runtimes import Runtimes, takes_runtimes
from a1_sgl.errors import ConfigError

if TYPE_CHECKING:
    from a1_sgl.evals.speed.race import Results, Run
    from a1_sgl.evals.speed.rho import Rho

app = App(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
@takes_runtimes
def bench(
    context: typer.Context,
    runtimes: Runtimes,
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs; an interrupted bench there goes on.")] = Path(
        "runs/bench"
    ),
    task: common.TaskName = "stories",
    questions: Annotated[int, typer.Option(help="How many questions.")] = 32,
    chains: common.Chains = 4,
    arms: Annotated[
        list[str] | None,
        typer.Option("--arm", help="What to compare; several may be named. [default: all]"),
    ] = None,
    repeats: Annotated[int, typer.Option(help="How often each arm runs; arms take turns.")] = 3,
    alpha: common.CardAlpha = None,
    take_over: Annotated[
        str | None, typer.Option(help="continue or replace. [default: the task's way]")
    ] = None,
    calibration: common.CardPath = None,
    gate: common.CardGate = None,
    fixed: Annotated[
        str | None,
        typer.Option(metavar="TURNSxTOKENS", help="Chunks of just so many tokens, whatever they say, such as 8x64."),
    ] = None,
    paced: Annotated[
        bool, typer.Option("--paced", help="A gate that hands over exactly alpha, whatever the scores.")
    ] = False,
    data: common.Data = None,
    seed: common.Seed = 0,
    temperature: common.Temperature = None,
    quiet: common.Quiet = False,
    overwrite: common.Overwrite = False,
    as_json: common.Json = False,
) -> None:  # fmt: skip
    """Compare A1 with the target alone, the draft alone, and other ways to use the two, on the same questions.

    With --fixed and --paced it measures runtimes whose weights cannot reason (--load-format dummy). `a1 bench rho`
    measures one runtime's costs.
    """
    if context.invoked_subcommand is not None:
        return
    from a1_sgl.cli.launch import terminate_on_sigterm
    from a1_sgl.evals.runner import Interrupted
    from a1_sgl.evals.speed.arms import Bench, Fixed
    from a1_sgl.evals.speed.race import race
    from a1_sgl.evals.tasks import find_task

    card = common.card(calibration)
    plan = Bench(
        task=find_task(task, data), questions=questions, chains=chains, alpha=common.alpha(alpha, card),
        arms=tuple(arms or ()), repeats=repeats, seed=seed, take_over=take_over, card=card,
        gate_kind=common.gate(gate, card), fixed=Fixed.parse(fixed) if fixed else None, paced=paced,
        temperature=temperature, in_flight=runtimes.in_flight,
    )  # fmt: skip
    with runtimes.connect(None) as backend, terminate_on_sigterm():
        try:
            results = race(plan, backend, out, lambda name: progress(name, quiet or as_json), overwrite=overwrite)
        except Interrupted as stop:
            errors.print(f"{stop}; the same command goes on", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None
    if as_json:
        typer.echo(results.model_dump_json())
        return
    show(results)
    console.print(f"runs and results.json: {out}", highlight=False, soft_wrap=True)


def show(results: Results) -> None:
    """Tables of 80 columns: speed, where the time went, and what is possible."""
    arms = list(results.speed_up)
    graded = results.settings["fixed"] is None
    table = _table(
        "", "wall s", f"x {results.base} [95%]", *(["accuracy"] if graded else []), "rate", "target tok", "cached"
    )
    for arm in arms:
        runs, ratio = results.of(arm), results.speed_up[arm]
        walls, one = sorted(run.wall_s for run in runs), results.median(arm)
        table.add_row(
            arm, _wall(walls),
            f"{ratio.mean:.2f}" + (f" [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio.low is not None else ""),
            *([_accuracy(runs)] if graded else []), "-" if one.rate is None else f"{_mean(runs, 'rate'):.1%}",
            f"{one.decode.get('target', 0):,}", "-" if one.cached_share is None else f"{one.cached_share:.1%}",
        )  # fmt: skip
    console.print(table)
    _say(
        f"{results.settings['questions']} questions x {results.settings['chains']} chains, "
        f"{results.settings['in_flight']} in flight, {results.settings['repeats']} rounds. wall: median ± half the "
        f"range; x {results.base}: times as fast as {results.base}, paired by round, and what timing on these "
        "questions leaves open"
    )
    console.print()
    causes = [
        cause for cause in next(iter(results.runs)).waits_s if any(run.waits_s[cause] > 0 for run in results.runs)
    ]
    untold = ("queue", "network", "client", "gate")  # that loop's requests do not tell
    table = _table("a chain's time", *causes, "gamma")
    for arm in arms:
        one = results.median(arm)
        whole = sum(one.waits_s.values()) or 1.0
        silent = untold if arm == "reference" else ()
        shares = ("-" if cause in silent else f"{one.waits_s[cause] / whole:.1%}" for cause in causes)
        table.add_row(arm, *shares, "-" if one.gamma is None else f"{one.gamma:.2f}")
    console.print(table)
    console.print()
    table = _table("busy", "draft", "target", "decode at once", "verify at once", "tail s")
    for arm in arms:
        busy = results.median(arm).busy
        table.add_row(
            arm, *(_busy(busy, role, "share", "{:.0%}") for role in ("draft", "target")),
            _busy(busy, "target decode", "calls", "{:.1f}"), _busy(busy, "target verify", "calls", "{:.1f}"),
            f"{results.median(arm).tail_s:.1f}",
        )  # fmt: skip
    console.print(table)
    if results.costs is None:
        return
    console.print()
    costs, base, one_by_one = results.costs, results.costs["target"], results.settings["in_flight"] == 1
    _say(
        f"by itself a token costs the target {1000 * base:.2f} ms to write, {1000 * costs['verify']:.2f} ms to verify "
        f"(rho {costs['verify'] / base:.2f}), the draft {1000 * costs['draft']:.2f} ms (c {costs['draft'] / base:.2f})"
    )
    table = _table("limit", "least s", "x target", "efficiency")
    for arm, limit in results.limits.items():
        table.add_row(arm, f"{limit.seconds:.1f}", f"{limit.speed_up:.2f}", f"{limit.efficiency:.2f}")
    console.print(table)
    idle = "its requests follow each other without a pause" if one_by_one else "neither runtime is ever idle"
    _say(f"least: what the arm's own tokens take if {idle}; efficiency: that over what it took")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    return table


def _wall(walls: Sequence[float]) -> str:
    middle = statistics.median(walls)
    return f"{middle:.1f}" + (f" ±{(walls[-1] - walls[0]) / 2 / middle:.0%}" if len(walls) > 1 else "")


def _mean(runs: Sequence[Run], name: str) -> float:
    return statistics.fmean(getattr(run, name) for run in runs)


def _accuracy(runs: Sequence[Run]) -> str:
    means = [run.accuracy["mean"] for run in runs if run.accuracy["mean"] is not None]
    return f"{statistics.fmean(means):.1%}" if means else "-"


def _busy(busy: dict[str, dict[str, Any]], name: str, key: str, how: str) -> str:
    return how.format(busy[name][key]) if name in busy else "-"


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)


@app.command("rho")
@takes_runtimes
def rho(
    runtimes: Runtimes,
    alpha: Annotated[float, typer.Option(help="Take-over rate that the conclusion is for.")] = 0.25,
    chunk: Annotated[int, typer.Option(help="Tokens in a chunk that the conclusion is for.")] = 64,
    seconds: Annotated[float, typer.Option(help="When they are over, what is left is left out.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Draws the tokens.")] = 0,
    as_json: common.Json = False,
) -> None:
    """Measure what verifying costs the target over what writing costs it: where A1 pays, and by how much.

    The runtime must have nothing else to do. The conclusion is for so many chains as --in-flight says. `a1 doctor` and
    `a1 eval --dry-run` use what is found.
    """
    if not 0 < alpha < 1:
        raise ConfigError(f"--alpha must lie strictly between 0 and 1, not {alpha}")
    if chunk < 1:
        raise ConfigError(f"--chunk must be at least 1, not {chunk}")
    if not seconds > 0:
        raise ConfigError(f"--seconds must be above 0, not {seconds:g}")
    from a1_sgl.engine import wait

    (url, *more) = runtimes.urls(("target",))["target"]
    if more:
        raise ConfigError("rho is measured on one runtime; name one --target")
    found = wait(_measure(url, runtimes, seconds, seed))
    kept = found.save(runtimes.state)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    show_rho(found)
    console.print()
    _say(f"{found.says(runtimes.in_flight, chunk, alpha)}.")
    console.print(f"kept: {kept}", highlight=False, soft_wrap=True)


async def _measure(url: str, runtimes: Runtimes, seconds: float, seed: int) -> Rho:
    from a1_sgl.engine import SGLang
    from a1_sgl.evals.environment import machine, packages
    from a1_sgl.evals.speed.rho import measure

    engine = await SGLang.connect(url, "target", settings=runtimes.settings)
    try:
        info = await engine.server_info()
        return await measure(
            engine, machine=machine(), packages=packages(), running=_running(info),
            capacity=_whole(info, "max_total_num_tokens"), seconds=seconds, seed=seed,
            tell=lambda what: errors.print(f"measuring: {what}", style="dim", highlight=False),
        )  # fmt: skip
    finally:
        await engine.close()


def _running(info: Mapping[str, Any]) -> int | None:
    """How many sequences the runtime computes at once: what it settled on, else what it was told."""
    states = info.get("internal_states")
    state = states[0] if isinstance(states, list) and states and isinstance(states[0], dict) else {}
    return _whole(state, "effective_max_running_requests_per_dp") or _whole(info, "max_running_requests")


def _whole(info: Mapping[str, Any], name: str) -> int | None:
    value = info.get(name)
    return value if type(value) is int and value > 0 else None


def show_rho(found: Rho) -> None:
    """What decoding and verifying cost, and their ratio, by batch and chunk."""
    chunks = sorted({chunk for row in found.verify.values() for chunk in row})
    table = _table("in flight", "write", *(f"verify {chunk}" for chunk in chunks))
    for batch, cost in sorted(found.decode.items()):
        row = found.verify.get(batch, {})
        cells = (f"{1000 * row[chunk]:.2f} ({row[chunk] / cost:.2f})" if chunk in row else "-" for chunk in chunks)
        table.add_row(str(batch), f"{1000 * cost:.2f}", *cells)
    console.print(table)
    _say(
        f"{found.model}, {found.machine}: ms a token, all requests together, by how many are in flight and how long "
        f"the chunk is, after {found.prefix} tokens. (...): rho, which is verify over write."
    )
    if found.context is not None:
        more = f"{1e6 * found.context:.3g} us" if found.context else "not measurably"
        _say(f"A written token costs {more} more for each token that its sequence already holds.")
    for what in found.left_out:
        _say(f"left out: {what}")
