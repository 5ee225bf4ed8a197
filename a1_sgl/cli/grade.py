"""`a1 grade`: a run's grades anew, or what a language model holds of its answers, beside their exact grades."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from a1_sgl.cli import common, console
from a1_sgl.errors import ConfigError


def grade(
    context: typer.Context,
    run: Annotated[Path | None, typer.Argument(help="Run folder.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Grade every chain anew, as this version does, and write the summary again.")
    ] = False,
    judge: Annotated[
        str | None, typer.Option(help="Ask a model: URL of an OpenAI-compatible endpoint, up to /v1.")
    ] = None,
    model: Annotated[str, typer.Option(help="Its model.")] = "default",
    key: Annotated[
        str, typer.Option(metavar="VARIABLE", help="Environment variable that holds the API key.")
    ] = "OPENAI_API_KEY",
    explain: Annotated[
        tuple[str, str] | None, typer.Option(metavar="ANSWER GOLD", help="Show what each stage makes of the two.")
    ] = None,
    grader: Annotated[str, typer.Option(help="Grader that explains itself.")] = "math",
    tolerance: Annotated[float | None, typer.Option(min=0, help="Largest difference that counts as none.")] = None,
    as_json: common.Json = False,
) -> None:
    """Grade a run anew without a model (--again), or ask one whether each answer means the reference (--judge).

    A model's verdicts never replace exact grades. Without a run, --explain shows how one answer is graded.
    """
    if judge is None:
        common.idle(context, ("model", "key"), "judge", "without --judge; name an endpoint")
    if explain is None:
        common.idle(context, ("grader", "tolerance"), "explain", "without --explain; give that too")
    if explain is not None:
        if run is not None or again or judge is not None:
            raise ConfigError("a1 grade --explain ANSWER GOLD takes no run")
        _explain(*explain, grader, tolerance, as_json)
        return
    if run is None:
        raise ConfigError("a1 grade takes a run folder, or --explain ANSWER GOLD")
    if again == (judge is not None):
        raise ConfigError("a1 grade RUN takes either --again, to grade anew, or --judge URL, to ask a model")
    if judge is None:
        _again(run, as_json)
    else:
        _ask(run, judge, model, os.environ.get(key), as_json)


def _explain(answer: str, gold: str, grader: str, tolerance: float | None, as_json: bool) -> None:
    from a1_sgl.answers import GRADERS, explain

    if grader not in GRADERS:
        raise ConfigError(f"unknown grader {grader!r}; known: {', '.join(GRADERS)}")
    names = ("stage", "answer", "reference")
    rows = explain(grader, answer, gold, tolerance)
    if as_json:
        common.as_json({"stages": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in names:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _again(run: Path, as_json: bool) -> None:
    from a1_sgl.evals.grading_stage import regrade

    found = regrade(run)
    if as_json:
        common.as_json(found)
        return
    changed = found.right + found.wrong + found.reworded
    console.print(
        f"{found.chains} chains graded, {changed} grades changed: {found.right} from wrong to right, {found.wrong} "
        f"from right to wrong, {found.reworded} in their key or note alone", highlight=False, soft_wrap=True,
    )  # fmt: skip
    if found.new:
        console.print(f"{found.new} chains had no grade before", highlight=False)
    for why, count in found.notes.items():
        console.print(f"{count} answers: {why}", markup=False, highlight=False, soft_wrap=True)


def _ask(run: Path, url: str, model: str, key: str | None, as_json: bool) -> None:
    from a1_sgl.evals.llm_judge import agreement, judge, verdicts_file
    from a1_sgl.records import RunFolder

    folder = RunFolder.read(run)
    verdicts = judge(folder, url, model, key)
    counts = agreement(folder, verdicts)
    if as_json:
        rows = [{"exact": right, "judge": verdict, "chains": n} for (right, verdict), n in counts.items()]
        common.as_json({"agreement": rows, "verdicts": str(verdicts_file(folder, model))})
        return
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
