"""`a1 calibrate`: collect the scores that a gate starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from a1_sgl.cli import common, console, errors
from a1_sgl.cli.progress import progress
from a1_sgl.cli.runtimes import Runtimes, takes_runtimes
from a1_sgl.conformal.gates import DEFAULT


@takes_runtimes
def calibrate(
    out: Annotated[Path, typer.Option("--out", help="Run folder; the card is its card.json.")],
    runtimes: Runtimes,
    program: common.Program = "a1",
    runtime: common.RuntimeName = None,
    chunking: common.Chunking = None,
    task: common.TaskName = "chain",
    split: Annotated[str, typer.Option(help="Which questions; never those of a test.")] = "calibration",
    questions: common.Questions = None,
    chains: common.Chains = 4,
    levels: common.Levels = None,
    data: common.Data = None,
    family: common.Family = None,
    seed: common.Seed = 0,
    alpha: common.Alpha = 0.25,
    gate: common.GateName = DEFAULT,
    first_stage: Annotated[
        str | None,
        typer.Option(metavar="SCORE", help="Note this score of the draft's own evidence too, for a first stage."),
    ] = None,
    temperature: common.Temperature = None,
    top_p: common.TopP = 1.0,
    set_: common.Parameters = None,
    quiet: common.Quiet = False,
    recipe: common.RecipeName = None,
    overwrite: common.Overwrite = False,
    as_json: common.Json = False,
) -> None:
    """Run a program on calibration questions and write a card with every chunk's score."""
    from a1_sgl.cli.launch import terminate_on_sigterm
    from a1_sgl.evals.runner import Eval, Interrupted
    from a1_sgl.evals.runner import calibrate as run
    from a1_sgl.evals.tasks import find_task

    found = find_task(task, data)
    plan = Eval(
        task=found, split=split, program=program, runtime=common.runtime(runtime, program),
        chunking=chunking, questions=questions, chains=chains, seed=seed,
        levels=levels, family=family, parameters=common.parameters(set_, recipe), gate_kind=gate,
        sampling=common.sampling(temperature, top_p, found.temperature), alpha=alpha,
        first=first_stage, eta=0.0,
    )  # fmt: skip
    with runtimes.connect(plan.runtime) as backend, terminate_on_sigterm():
        common.check_recipe(recipe, plan, backend)
        try:
            with progress("calibrate", quiet or as_json) as shown:
                card, summary = run(plan, backend, out, shown, overwrite=overwrite)
        except Interrupted as stop:
            errors.print(f"{stop}; the same command goes on", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None
    card.save(out / "card.json")
    if as_json:
        common.as_json({"card": str(out / "card.json"), "scores": len(card.scores), "questions": len(card.questions),
                        "smallest_alpha": card.smallest_alpha, "summary": summary})  # fmt: skip
        common.report_losses(summary, as_json)
        return
    console.print(
        f"{len(card.scores):,} scores from {len(card.questions)} questions, take-over rate "
        f"{common.percent(summary['take_over'], 'realised')} at alpha {card.alpha:g}\n"
        f"smallest alpha that they alone can attain: {card.smallest_alpha:.2g}\ncard: {out / 'card.json'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    common.report_losses(summary)
