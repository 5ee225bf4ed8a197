"""`a1 programs`, `a1 gates`, `a1 scores`, `a1 votes` and `a1 recipes`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from a1_sgl.cli import common, console
from a1_sgl.registry import headline


def programs(
    file: Annotated[Path | None, typer.Argument(help="A file of your own. [default: the library]")] = None,
    as_json: common.Json = False,
) -> None:
    """List the programs and their parameters, the library's or those of a file of your own, which is not run."""
    from a1_sgl.programs.outline import library, outlines, registered

    found = library() if file is None else outlines(file)
    own = {f"{kind}s": registered(file, kind) if file is not None else [] for kind in ("score", "vote", "rate")}
    if as_json:
        common.as_json({"programs": [asdict(one) for one in found], **(own if file is not None else {})})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("program", no_wrap=True)
    table.add_column("runs on", no_wrap=True)
    table.add_column("")
    for program in found:
        table.add_row(program.name, "both" if program.takes_over else "one or both", program.about)
        table.add_row("", "", f"--set {', '.join(program.own)}" if program.own else "", style="dim")
    console.print(table)
    for kind, names in own.items():
        if names:
            console.print(f"{kind} of its own: {', '.join(names)}", highlight=False, markup=False)
    where = "path/to/file.py" if file is None else file
    console.print(f"\n--program {where}:NAME runs one of yours; see docs/programs.md.", highlight=False, markup=False)


def gates(as_json: common.Json = False) -> None:
    """List gates, which say what is handed over, and audits of what is not."""
    from a1_sgl.conformal import DEFAULT, KNOWN, RECOMMENDED
    from a1_sgl.evals import tasks  # noqa: F401  # audits of their own come with it
    from a1_sgl.session import AUDITS

    marks = {DEFAULT: " (default)", RECOMMENDED: " (recommended where that is asked for)"}
    known = {name: headline(make.__doc__) for name, make in KNOWN.items()}
    if not as_json:
        known = {name: about + marks.get(name, "") for name, about in known.items()}
    _show({"gate": known, "audit": {name: audit.about for name, audit in AUDITS.items()}}, as_json)


def votes(as_json: common.Json = False) -> None:
    """List votes and ratings: how chains make an answer."""
    from a1_sgl.session import RATES
    from a1_sgl.voting import VOTES

    known = {name: headline(vote.__doc__) for name, vote in VOTES.items()}
    _show({"vote": known, "rate": {name: rate.about for name, rate in RATES.items()}}, as_json)


def recipes(as_json: common.Json = False) -> None:
    """List recipes: how a pair is served, as `a1 launch NAME`; and options of `a1 eval`, as `--recipe NAME`."""
    from a1_sgl.evals import recipes as evals
    from a1_sgl.launch import recipes as launch

    _show(
        {
            "launch recipe": {name: launch.find_recipe(name).about for name in launch.RECIPES},
            "recipe": {name: evals.find_recipe(name).about for name in evals.RECIPES},
        },
        as_json,
    )


def scores(as_json: common.Json = False) -> None:
    """List scores: what a chunk is judged by, as `--set score=NAME`; without a prefill, also `--first-stage NAME`."""
    from a1_sgl.conformal import SCORES

    _show({"score": {name: score.about for name, score in SCORES.items()}}, as_json)


def _show(kinds: Mapping[str, Mapping[str, str]], as_json: bool) -> None:
    """Things of each kind, by name, with a line about each."""
    if as_json:
        common.as_json(
            {f"{kind}s": [{"name": name, "about": about} for name, about in of.items()] for kind, of in kinds.items()}
        )
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for i, (kind, of) in enumerate(kinds.items()):
        if i:
            table.add_row("")
        table.add_row(kind, style="bold")
        for name, about in of.items():
            table.add_row(name, about)
    console.print(table)
