"""What a decode step costs on each model of a pocket pair: ``python -m a1_sgl.launch.pocket.cost --task stories``.

Draft and target decode the same numbers of tokens in turn, for several batch sizes. A step's cost is the difference
between a long and a short generation over the difference in steps, so that prompts and requests drop out. The table has
the median over rounds, and that of the ratio round by round with its smallest and largest.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.launch.pocket import PAIRS, pocket_specs
from a1_sgl.launch.runtimes import serve
from a1_sgl.programs import direct
from a1_sgl.session import Backend

SHORT, LONG = 32, 160
"""Tokens of the two generations."""
ROUNDS = 5
STREAMS = (1, 8, 64)


def step_ms(backend: Backend, streams: int) -> float:
    """Milliseconds of one decode step with `streams` sequences in the batch."""

    def seconds(tokens: int) -> float:
        started = time.perf_counter()
        direct.run(
            question="Start with 39. Add 2. What is the result?", samples=streams, max_tokens=tokens, ignore_eos=True,
            backend=backend, temperature=1.0,
        )  # fmt: skip
        return time.perf_counter() - started

    return 1000 * (seconds(LONG) - seconds(SHORT)) / (LONG - SHORT)


def main(task: Annotated[str, typer.Option(help=f"Whose pair: {' or '.join(PAIRS)}.")] = "chain") -> None:
    """What a decode step costs on each model of a pocket pair."""
    table = Table(box=None, pad_edge=False)
    for column in ("streams", "draft ms/step", "target ms/step", "target / draft [min, max]"):
        table.add_column(column, justify="right")
    with (
        tempfile.TemporaryDirectory() as logs,
        serve(pocket_specs(task), Path(logs)) as (draft_at, target_at),
        Backend.connect(draft=draft_at.url) as draft,
        Backend.connect(target=target_at.url) as target,
    ):
        for streams in STREAMS:
            rounds = [(step_ms(draft, streams), step_ms(target, streams)) for _ in range(ROUNDS + 1)][1:]
            ratios = sorted(t / d for d, t in rounds)
            table.add_row(
                str(streams),
                f"{statistics.median(d for d, _ in rounds):.2f}",
                f"{statistics.median(t for _, t in rounds):.2f}",
                f"{statistics.median(ratios):.1f} [{ratios[0]:.1f}, {ratios[-1]:.1f}]",
            )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
