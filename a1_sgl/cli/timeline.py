"""`a1 timeline`: runs as a trace for Perfetto and chrome://tracing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from a1_sgl.cli import common, console

if TYPE_CHECKING:
    from a1_sgl.evals.timeline import Timeline


def timeline(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; they stand side by side, each from its begin.")],
    out: Annotated[Path, typer.Option("--out", help="The trace: .json or .json.gz.")] = Path("timeline.json.gz"),
    start: Annotated[float, typer.Option("--from", metavar="SECONDS", help="Leave out what had ended by then.")] = 0.0,
    end: Annotated[
        float | None, typer.Option("--to", metavar="SECONDS", help="Leave out what began later. [default: nothing]")
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Write a trace of what each runtime and each chain did at each moment; ui.perfetto.dev opens it."""
    from a1_sgl.evals.timeline import Timeline, Window, write
    from a1_sgl.records import RunFolder

    window, said = Window(start, end), dict[str, dict[str, Any]]()

    def read() -> Iterator[tuple[str, Timeline]]:
        for name, path in common.short_names(runs).items():  # one after another: a record may be large
            found = Timeline.read(RunFolder.read(path))
            said[name] = found.summary()
            yield name, found

    write(out, read(), window)
    if as_json:
        common.as_json({"trace": str(out), "runs": said})
        return
    console.print(_table("seconds of requests", said, "runtimes"))
    console.print(_table("seconds of chains", said, "chains"))
    console.print(
        f"\ntrace: {out}, which ui.perfetto.dev and chrome://tracing open", highlight=False, markup=False,
        soft_wrap=True,
    )  # fmt: skip


def _table(title: str, runs: dict[str, dict[str, Any]], of: str) -> Table:
    """A column a run, and a row for whatever took time in any."""
    columns: dict[str, dict[str, float]] = {}
    for run, summary in runs.items():
        columns[run] = summary[of] if of == "chains" else {
            f"{runtime} {name.removesuffix('_s')}": seconds
            for runtime, figures in summary[of].items()
            for name, seconds in figures.items()
            if name.endswith("_s")
        }  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    for run in columns:
        table.add_column(run, justify="right")
    for row in dict.fromkeys(row for column in columns.values() for row in column):
        cells = [column.get(row, 0.0) for column in columns.values()]
        if any(cells):
            table.add_row(row, *(f"{cell:,.1f}" if cell else "-" for cell in cells))
    return table
