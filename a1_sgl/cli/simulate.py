"""`a1 simulate`: a fleet of runtimes without one, fitted to a recorded run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from a1_sgl.cli import common, complete, console, errors
from a1_sgl.cli.app import App
from a1_sgl.errors import ConfigError

app = App(
    help="Simulate a fleet of runtimes: fitted to one recorded run, checked against others, and then swept.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
PairName = Annotated[
    str,
    typer.Option(
        "--pair", help="What draft and target cost and hold: a YAML file, or a pair that comes with the package.",
        autocompletion=complete.simulated,
    ),
]  # fmt: skip
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of `a1 eval` or `a1 bench`.")]


@app.command("fit")
def fit(
    run: RunFolder,
    pair: PairName,
    out: Annotated[Path, typer.Option("--out", help="YAML file for the pair as fitted.")],
    as_json: common.Json = False,
) -> None:
    """Fit a pair's costs to one recorded run: what steps took in it, and how much slower both are side by side."""
    from a1_sgl.evals.simulate.costs import find_pair
    from a1_sgl.evals.simulate.fit import Check
    from a1_sgl.evals.simulate.fit import fit as fitted
    from a1_sgl.evals.simulate.load import Record

    measured, record = find_pair(pair), Record.read(run)
    found = fitted(record, measured)
    found.save(out)
    check = Check.of(record, found)
    if as_json:
        typer.echo(json.dumps({"pair": found.model_dump(), "check": _dumped([check])}))
        return
    table = _table("", "decode steps", "prefill steps")
    for role in ("draft", "target"):
        worker = getattr(found, role)
        table.add_row(role, f"x {worker.decode_scale:.2f}", f"x {worker.prefill_scale:.2f}")
    console.print(table)
    _say(
        f"x: times what {pair} says. Side by side both are slower by {found.contention:.0%}; a request is "
        f"{1000 * found.network:.1f} ms under way.\n"
    )
    _show([check])
    console.print(f"written: {out}", markup=False, highlight=False, soft_wrap=True)


@app.command("check")
def check(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders that the pair was not fitted to.")],
    pair: PairName,
    as_json: common.Json = False,
) -> None:
    """Replay recorded runs on a simulated pair and say how far the simulation is off.

    A replay asks for the same requests in the same order, with as many chains in flight; only their times are
    simulated.
    """
    from a1_sgl.evals.simulate.costs import find_pair
    from a1_sgl.evals.simulate.fit import Check
    from a1_sgl.evals.simulate.load import Record

    on = find_pair(pair)
    checks = [Check.of(Record.read(path), on) for path in common.short_names(runs).values()]
    if as_json:
        common.as_json({"checks": _dumped(checks)})
        return
    _show(checks)


@app.command("plan")
def plan(
    run: RunFolder,
    pair: PairName,
    arms: Annotated[
        list[str] | None,
        typer.Option("--arm", help="a1, a1_sync, target or draft; several may be named. [default: a1 and target]"),
    ] = None,
    alpha: Annotated[str, typer.Option(help="Take-over rates: A,B,C or FIRST:LAST:STEP.")] = "0.25",
    chains: Annotated[str, typer.Option(help="Chains for each question: A,B,C.")] = "4",
    targets: Annotated[str, typer.Option(help="Target workers: A,B,C.")] = "1",
    drafts: Annotated[str, typer.Option(help="Draft workers: A,B,C.")] = "1",
    rate: Annotated[
        float | None,
        typer.Option(help="Questions that arrive a second. [default: the next one begins when there is a place]"),
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(help="Most chains at once for each target worker. [default: 64; with --rate any number]"),
    ] = None,
    within: Annotated[
        float | None, typer.Option(help="Seconds in which 95% of the questions must be answered; names the cheapest.")
    ] = None,
    questions: Annotated[int, typer.Option(help="How many questions to simulate.")] = 200,
    take_over: Annotated[str | None, typer.Option(help="continue or replace. [default: as in the run]")] = None,
    stretch: Annotated[float, typer.Option(help="How many times as long everything is as in the run.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Draws chains and times of arrival.")] = 0,
    as_json: common.Json = False,
) -> None:
    """Sweep fleets, rates, chains and programs, with chains drawn from a recorded run of a1 or a1_sync."""
    from a1_sgl.evals.simulate.costs import find_pair
    from a1_sgl.evals.simulate.fleet import Arrivals
    from a1_sgl.evals.simulate.load import UNKNOWN, Record
    from a1_sgl.evals.simulate.plan import Plan, cheapest, sweep

    if take_over not in (None, "continue", "replace"):
        raise ConfigError(f"--take-over is continue or replace, not {take_over!r}")
    wanted = Plan(
        arms=tuple(arms or ("target", "a1")), alphas=tuple(common.span(alpha)), chains=_counts("--chains", chains),
        targets=_counts("--targets", targets), drafts=_counts("--drafts", drafts), questions=questions,
        arrivals=Arrivals(in_flight if in_flight is not None or rate is not None else 64, rate),
        replaces=None if take_over is None else take_over == "replace", stretch=stretch, within=within, seed=seed,
    )  # fmt: skip
    rows = []
    for row in sweep(Record.read(run), find_pair(pair), wanted):
        rows.append(row)
        if not as_json and errors.is_terminal:
            errors.print(f"simulated: {row.arm}, {row.targets} targets", style="dim", highlight=False)
    best = cheapest(rows)
    if as_json:
        found = {"rows": [row.dump() for row in rows], "cheapest": best and best.dump()}
        common.as_json(found)
        return
    table = _table("arm", "alpha", "m", "draft", "target", "q/s", "median s", "p95 s", "at once d/t", "device-s")
    for row in rows:
        table.add_row(
            row.arm, "-" if row.alpha is None else f"{row.alpha:g}", str(row.chains), str(row.drafts),
            str(row.targets), f"{row.per_second:.3g}", f"{row.median:.1f}", f"{row.p95:.1f}",
            f"{row.draft_batch:.0f}/{row.target_batch:.0f}", f"{row.device_s:.1f}" + ("" if row.keeps_up else " !"),
        )  # fmt: skip
    console.print(table)
    _say(
        "m: chains a question; draft, target: workers; q/s: questions answered a second; median, p95: of a question's "
        "time; at once: sequences in a decode step; device-s: devices x seconds a question"
        + ("; !: does not keep up with the arrivals" if not all(row.keeps_up for row in rows) else "")
    )
    if within is not None:
        _say(
            f"95% within {within:g} s: none of these"
            if best is None
            else f"95% within {within:g} s, cheapest: {best.arm}"
            + ("" if best.alpha is None else f" at alpha {best.alpha:g}")
            + f", {best.chains} chains, {best.drafts} draft and {best.targets} target workers, {best.device_s:.1f} "
            "device-seconds a question"
        )
    console.print(f"\n{UNKNOWN}", style="dim", markup=False, highlight=False)


def _counts(option: str, text: str) -> tuple[int, ...]:
    found = common.span(text)
    if any(one != int(one) or one < 1 for one in found):
        raise ConfigError(f"{option} takes whole numbers from 1 on, not {text!r}")
    return tuple(map(int, found))


def _show(checks: list[Any]) -> None:
    from a1_sgl.evals.simulate.fit import error

    table = _table("run", "chains", "wall s", "simulated", "error", "chains/s", "simulated", "error")
    for one in checks:
        table.add_row(
            one.name, str(one.chains), f"{one.wall[0]:.1f}", f"{one.wall[1]:.1f}", f"{error(one.wall):+.1%}",
            f"{one.throughput[0]:.2f}", f"{one.throughput[1]:.2f}", f"{error(one.throughput):+.1%}",
        )  # fmt: skip
    console.print(table)
    _say("chains/s: until three quarters of the chains have ended")


def _dumped(checks: list[Any]) -> list[dict[str, Any]]:
    from a1_sgl.evals.simulate.fit import error

    def both(pair: tuple[float, float]) -> dict[str, float]:
        return {"recorded": pair[0], "simulated": pair[1], "error": error(pair)}

    return [
        {
            "run": one.name, "chains": one.chains, "wall_s": both(one.wall), "chains_per_s": both(one.throughput),
            "question_s": both(one.latency), "requests": {name: both(pair) for name, pair in one.requests.items()},
        }
        for one in checks
    ]  # fmt: skip


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    return table


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)
