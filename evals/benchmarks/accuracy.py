"""What control of the rate costs in accuracy: the same questions and alpha under several gates, on the pocket pair.

python -m a1_sgl.evals.benchmarks.accuracy --out runs/accuracy
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.conformal import Decided, Rates
from a1_sgl.evals.runner import Eval, calibrate, evaluate
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.launch.runtimes import serve
from a1_sgl.session import Backend
from a1_sgl.types import VerdictEvent

GATES = ("marginal", "adaptive", "adaptive-turn", "mondrian-question", "turn-budget", "balanced")


def main(
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    alpha: Annotated[float, typer.Option(help="Nominal rate.")] = 0.25,
    questions: Annotated[int, typer.Option(help="Test questions.")] = 100,
    chains: Annotated[int, typer.Option(help="Chains of a question.")] = 4,
    seed: Annotated[int, typer.Option(help="Of questions and gates.")] = 0,
) -> None:
    """Accuracy, rate, mean absolute deviations from alpha, and selectivity; each gate starts from the same card."""
    task = find_task("chain")
    plan = Eval(
        task=task, split="test", program="a1", runtime=None, questions=questions, chains=chains, seed=seed,
        parameters={}, alpha=alpha,
    )  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("gate", "accuracy", "rate", "by turn", "by question", "selectivity"):
        table.add_column(name, justify="left" if name == "gate" else "right")
    with serve(pocket_specs(), out / "logs") as (draft, target), Backend.connect(draft.url, target.url) as pair:
        card, _ = calibrate(
            replace(plan, split="calibration", questions=60, gate_kind="marginal"), pair, out / "calibration"
        )
        for name in GATES:
            folder, summary = evaluate(replace(plan, gate_kind=name, card=card), pair, out / name)
            rates = Rates.of(
                alpha, [Decided(e.place, e.score, e.take_over) for e in folder.events if isinstance(e, VerdictEvent)]
            )
            accuracy = summary["accuracy"]
            table.add_row(
                name,
                f"{100 * accuracy['mean']:.1f}% [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]",
                f"{rates.overall.hits / rates.overall.n:.1%}",
                f"{statistics.fmean(rates.deviations('turn', 75)):.1%}",
                f"{statistics.fmean(rates.deviations('question')):.1%}",
                f"{rates.selectivity():.1%}",
            )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
