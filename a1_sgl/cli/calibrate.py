"""`a1 calibrate`: collect the scores that a gate starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from a1_sgl.cli import common, console, errors


def calibrate(
    out: Annotated[Path, typer.Option("--out", help="Run folder; the card is its card.json.")],
    program: Annotated[str, typer.Option(help="Program whose chunks are scored.")] = "a1",
    task: common.TaskName = "chain",
    split: Annotated[str, typer.Option(help="Which questions; never those of a test.")] = "calibration",
    questions: common.Questions = 50,
    chains: common.Chains = 4,
    levels: common.Levels = None,
    seed: common.Seed = 0,
    alpha: common.Alpha = 0.25,
    temperature: common.Temperature = None,
    top_p: common.TopP = 1.0,
    set_: common.Parameters = None,
    in_flight: common.InFlight = 64,
    draft: common.DraftUrl = None,
    target: common.TargetUrl = None,
    state: common.StateDir = common.STATE,
    quiet: common.Quiet = False,
) -> None:
    """Run a program on calibration questions and write a card with every chunk's score."""
    from a1_sgl.cli.launch import terminate_on_sigterm
    from a1_sgl.evals.runner import Eval, Interrupted
    from a1_sgl.evals.runner import calibrate as run
    from a1_sgl.evals.tasks import find_task

    found = find_task(task)
    plan = Eval(
        task=found, split=split, program=program, runtime=None, questions=questions, chains=chains, seed=seed,
        levels=common.levels(levels, found.levels), parameters=common.parameters(set_),
        sampling=common.sampling(temperature, top_p, found.temperature), alpha=alpha,
    )  # fmt: skip
    with common.connect(None, draft, target, state, in_flight) as backend, terminate_on_sigterm():
        try:
            with common.progress("calibrate", quiet) as progress:
                card, summary = run(plan, backend, out, progress)
        except Interrupted as stop:
            errors.print(f"{stop}; the same command goes on", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None
    card.save(out / "card.json")
    console.print(
        f"{len(card.scores):,} scores from {len(card.questions)} questions, take-over rate "
        f"{common.percent(summary['take_over'], 'realised')} at alpha {alpha:g}\ncard: {out / 'card.json'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    common.report_losses(summary)
