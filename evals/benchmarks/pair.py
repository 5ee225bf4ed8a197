"""What the pocket pair of `stories` can do, by difficulty, and how well the target's loss tells right steps from wrong.

python -m a1_sgl.evals.benchmarks.pair --out runs/pair

Draft and target alone, and A1 with `replace` and with `continue`, on the same questions, as many of each difficulty. A
folder that holds finished runs is gone on with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import mannwhitneyu

from a1_sgl.evals.exact import Worked, problem, right
from a1_sgl.evals.runner import Eval, calibrate, evaluate
from a1_sgl.evals.stories import STEPS
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.launch.runtimes import serve
from a1_sgl.records import RunFolder
from a1_sgl.session import Backend
from a1_sgl.types import ChunkEvent, VerdictEvent

REPLACE, CONTINUE = 0.25, 0.35
"""Alpha of the two ways to take over."""


def main(
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    questions: Annotated[int, typer.Option(help="Test questions.")] = 120,
    chains: Annotated[int, typer.Option(help="Chains of a question.")] = 4,
    seed: Annotated[int, typer.Option(help="Of questions and gates.")] = 0,
    target: Annotated[str | None, typer.Option(metavar="FOLDER", help="Another target than the pair's own.")] = None,
) -> None:
    """Accuracy by number of steps, and AUC."""
    task = find_task("stories")
    plan = Eval(
        task=task, split="test", program="direct", runtime=None, questions=questions, chains=chains, seed=seed,
    )  # fmt: skip
    specs = [replace(one, model=target) if target and one.name == "target" else one for one in pocket_specs("stories")]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "chains right [95%]", *map(str, STEPS), "rate"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    with serve(specs, out / "logs") as runtimes, Backend.connect(*(one.url for one in runtimes)) as pair:
        for role in ("draft", "target"):
            run = evaluate(replace(plan, runtime=role), pair.alone(role), out / role)
            table.add_row(f"{role} alone", *_row(*run), "-")
        steps: list[tuple[float, bool]] = []
        for take_over, alpha in (("replace", REPLACE), ("continue", CONTINUE)):
            joint = replace(plan, program="a1", parameters={"take_over": take_over}, alpha=alpha)
            card, _ = calibrate(
                replace(joint, split="calibration", questions=40), pair, out / f"calibration-{take_over}"
            )  # fmt: skip
            folder, summary = evaluate(replace(joint, card=card), pair, out / take_over)
            rate = summary["take_over"]["realised"]
            table.add_row(f"a1, {take_over}, alpha {alpha:g}", *_row(folder, summary), f"{rate:.1%}")
            steps = steps or list(judged(folder))
    console = Console(width=100)
    console.print(table)
    wrong, good = ([score for score, found in steps if found is not value] for value in (True, False))
    console.print(
        f"{questions} test questions x {chains} chains, temperature {task.temperature}, seed {seed}; columns: percent "
        f"right, by number of steps. The target's mean loss of a draft's step, {len(wrong):,} wrong and "
        f"{len(good):,} right ones: AUC {auc(wrong, good):.4f}.",
        highlight=False,
    )


def judged(folder: RunFolder) -> Iterator[tuple[float, bool]]:
    """Score and rightness of each chunk that was judged. A step that builds faithfully on an error is right."""
    worked: dict[str, Worked] = {name: problem(one) for name, one in folder.questions().items()}
    text: dict[tuple[str, int], str] = defaultdict(str)
    drafted: dict[tuple[str, int], str] = {}
    for event in folder.events:
        if isinstance(event, ChunkEvent):
            place = (event.question, event.sample)
            text[place] += drafted.pop(place, "")
            drafted[place] = event.text
        elif isinstance(event, VerdictEvent):
            place = (event.question, event.sample)
            yield event.score, right(worked[event.question], text[place], drafted[place])
            if event.take_over:  # with `replace` it never stood there
                del drafted[place]


def auc(wrong: list[float], good: list[float]) -> float:
    """Chance that a wrong step has the higher score of the two; ties count half."""
    return float(mannwhitneyu(wrong, good).statistic) / (len(wrong) * len(good))


def _row(folder: RunFolder, summary: dict[str, Any]) -> list[str]:
    found: dict[int, list[bool]] = defaultdict(list)
    questions = folder.questions()
    for chain in folder.chains:
        found[int(questions[chain.question].meta["steps"])].append(bool(chain.correct))
    mean = summary["accuracy"]
    return [
        f"{100 * mean['mean']:.1f} [{100 * mean['low']:.1f}, {100 * mean['high']:.1f}]",
        *(f"{100 * np.mean(found[count]):.0f}" for count in STEPS),
    ]


if __name__ == "__main__":
    typer.run(main)
