"""`a1 report`: runs as one HTML page and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from a1_sgl.cli import common, console
from a1_sgl.errors import ConfigError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option("--out", help="The page; its figures become PNGs beside it.")] = Path(
        "report.html"
    ),
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Runs",
) -> None:
    """Write one HTML page of runs: accuracy and cost, take-over by turn, latency, timelines, and every chain."""
    from a1_sgl.evals.report import write
    from a1_sgl.records import RunFolder

    if out.suffix != ".html":
        raise ConfigError(f"--out is the page itself, such as {out}.html, not {out}; its pictures go beside it")
    folders = {name: RunFolder.read(path) for name, path in common.short_names(runs).items()}
    for path in write(out, folders, title):
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
