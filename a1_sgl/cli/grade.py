"""`a1 grade`: what a language model holds of a run's answers, beside their exact grades."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from a1_sgl.cli import console


def grade(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    judge: Annotated[str, typer.Option(help="URL of an OpenAI-compatible endpoint, up to /v1.")],
    model: Annotated[str, typer.Option(help="Its model.")] = "default",
    key: Annotated[
        str, typer.Option(metavar="VARIABLE", help="Environment variable that holds the API key.")
    ] = "OPENAI_API_KEY",
) -> None:
    """Ask a language model whether each answer means the reference; its verdicts never replace exact grades."""
    from a1_sgl.evals.llm_judge import agreement, verdicts_file
    from a1_sgl.evals.llm_judge import judge as ask
    from a1_sgl.records import RunFolder

    folder = RunFolder.read(run)
    verdicts = ask(folder, judge, model, os.environ.get(key))
    counts = agreement(folder, verdicts)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("exact grade", "judge: right", "wrong", "unclear"):
        table.add_column(column, justify="left" if column == "exact grade" else "right")
    for correct, name in ((True, "right"), (False, "wrong")):
        table.add_row(name, *(str(counts[correct, verdict]) for verdict in ("right", "wrong", "unclear")))
    console.print(table)
    same = counts[True, "right"] + counts[False, "wrong"]
    if counts.total():
        console.print(f"they agree on {same} of {counts.total()} chains ({same / counts.total():.1%})", highlight=False)
    console.print(f"verdicts: {verdicts_file(folder, model)}", highlight=False, markup=False, soft_wrap=True)
