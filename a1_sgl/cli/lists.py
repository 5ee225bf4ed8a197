"""`a1 programs`, `a1 gates`, `a1 scores` and `a1 votes`: what there is to choose from."""

from __future__ import annotations

from rich.table import Table

from a1_sgl.cli import console


def programs() -> None:
    """List the programs and their parameters."""
    from a1_sgl.programs import PROGRAMS

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("program", no_wrap=True)
    table.add_column("runs on", no_wrap=True)
    table.add_column("")
    for program in PROGRAMS.values():
        table.add_row(program.name, "both" if program.takes_over else "one or both", program.about)
        table.add_row("", "", f"--set {', '.join(program.own)}", style="dim")
    console.print(table)
    console.print("\n--program path/to/file.py:NAME runs one of yours; see docs/programs.md.", highlight=False)


def gates() -> None:
    """List gates: how alpha is held."""
    from a1_sgl.conformal import BUDGETS, DEFAULT, GATES, RECOMMENDED

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("gate", no_wrap=True)
    table.add_column("")
    for name, make in {**GATES, **BUDGETS}.items():
        mark = {DEFAULT: " (default)", RECOMMENDED: " (recommended where that is asked for)"}.get(name, "")
        table.add_row(name, (make.__doc__ or "").split("\n")[0] + mark)
    console.print(table)


def votes() -> None:
    """List votes and ratings: how chains make an answer."""
    from a1_sgl.session import RATES
    from a1_sgl.voting import VOTES

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("vote", no_wrap=True)
    table.add_column("")
    for name, vote in VOTES.items():
        table.add_row(name, (vote.__doc__ or "").partition("\n")[0])
    table.add_row("")
    table.add_row("rate", style="bold")
    for rate in RATES.values():
        table.add_row(rate.name, rate.about)
    console.print(table)


def recipes() -> None:
    """List recipes: options of `a1 eval` and `a1 calibrate`, as `--recipe NAME`."""
    from a1_sgl.evals.recipes import RECIPES, find_recipe

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recipe", no_wrap=True)
    table.add_column("")
    for name in RECIPES:
        table.add_row(name, find_recipe(name).about)
    console.print(table)


def scores() -> None:
    """List scores: what a chunk is judged by, as `--set score=NAME`; without a prefill, also `--first-stage NAME`."""
    from a1_sgl.conformal import SCORES

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("score", no_wrap=True)
    table.add_column("")
    for score in SCORES.values():
        table.add_row(score.name, score.about)
    console.print(table)
