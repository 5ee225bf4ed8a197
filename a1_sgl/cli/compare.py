"""`a1 compare`: what runs differ by, question by question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from a1_sgl.cli import common, console
from a1_sgl.errors import ConfigError


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, the baseline first.")],
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="Compare although this differs; or `unfinished`."),
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Compare runs on the same questions: paired differences with intervals, a test, and what each costs.

    Runs are refused, and the reason named, if their difference would not be that of their programs.
    """
    from a1_sgl.evals.comparison import compare as pairs
    from a1_sgl.evals.comparison import sentence
    from a1_sgl.records import RunFolder

    folders = {name: RunFolder.read(path) for name, path in common.short_names(runs).items()}
    if len(folders) < 2:
        raise ConfigError("a comparison takes two runs or more")
    rows = pairs(folders, tuple(allow or ()))
    if as_json:
        common.as_json({"comparisons": rows})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    lost = any(count for row in rows for count in row["chains_lost"].values())
    columns = ["second less first", "points", "95% interval", "gains", "loses", "McNemar p"]
    for column in (*columns, *(["chains lost"] if lost else [])):
        table.add_column(column, justify="left" if column.startswith("second") else "right")
    for row in rows:
        d = row["difference"]
        table.add_row(
            escape(f"{row['second']} - {row['first']}"), f"{100 * d.mean:+.1f}",
            f"[{100 * d.low:+.1f}, {100 * d.high:+.1f}]", str(d.gained), str(d.lost), f"{d.p_value:.2g}",
            *([f"{row['chains_lost'][row['second']]}, {row['chains_lost'][row['first']]}"] if lost else []),
        )  # fmt: skip
    console.print(table)
    questions = rows[0]["difference"].questions
    console.print(
        f"[...]: paired bootstrap over {questions} questions. gains, loses: questions by vote."
        + (" chains lost: second, first.\n" if lost else "\n"),
        markup=False, highlight=False,
    )  # fmt: skip
    for row in rows:
        console.print(sentence(row), highlight=False, markup=False)
    console.print(
        "\nWhat was prefilled, and the time, depend on what runs before it had left in the prefix caches; `a1 bench` "
        "empties them.", markup=False, highlight=False,
    )  # fmt: skip
