"""`a1 certify`: which levels of a frozen gate lose few answers against the target alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from a1_sgl.cli import common, console, errors
from a1_sgl.cli.progress import progress
from a1_sgl.cli.runtimes import Runtimes, takes_runtimes
from a1_sgl.conformal.gates import FROZEN

if TYPE_CHECKING:
    from a1_sgl.conformal import Card, Trial
    from a1_sgl.evals.certify import Certification


@takes_runtimes
def certify(
    calibration: Annotated[Path, typer.Option("--calibration", help="Card from `a1 calibrate`, whose bank is frozen.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs; the certified card is its card.json.")],
    epsilon: Annotated[float, typer.Option(help="Largest share of questions that may be lost.")],
    runtimes: Runtimes,
    delta: Annotated[float, typer.Option(help="Probability of certifying what loses more.")] = 0.1,
    alphas: Annotated[
        str, typer.Option(help="Levels to test from the largest down, as FIRST:LAST:STEP or A,B,C.")
    ] = "0.1:0.5:0.1",
    questions: Annotated[
        int | None, typer.Option(help="How many questions in all; may grow. [default: enough if none is lost]")
    ] = None,
    program: common.Program = "a1",
    runtime: common.RuntimeName = None,
    vote: common.Vote = None,
    rate: common.Rate = None,
    chunking: common.Chunking = None,
    task: common.TaskName = "chain",
    split: Annotated[
        str, typer.Option(help="Which questions, but for those of the card; never those of a test.")
    ] = "calibration",
    chains: common.Chains = 4,
    levels: common.Levels = None,
    data: common.Data = None,
    family: common.Family = None,
    seed: common.Seed = 0,
    temperature: common.Temperature = None,
    top_p: common.TopP = 1.0,
    set_: common.Parameters = None,
    quiet: common.Quiet = False,
    recipe: common.RecipeName = None,
    as_json: common.Json = False,
) -> None:
    """Certify that a frozen gate loses few answers: questions that the target alone gets right and the program wrong.

    The target alone and the program at each of --alphas answer questions that are not on the card, from the largest
    alpha down, until one fails. The same command with more --questions goes on, and asks only what is new. All else is
    settled by the first one. Exit status 1 if no alpha is certified.
    """
    from a1_sgl.cli.launch import terminate_on_sigterm
    from a1_sgl.evals.certify import Certification
    from a1_sgl.evals.certify import certify as run
    from a1_sgl.evals.runner import Eval, Interrupted
    from a1_sgl.evals.tasks import find_task

    found, card = find_task(task, data), common.card(calibration)
    levels_tried = tuple(common.span(alphas))
    what = Certification(
        Eval(
            task=found, split=split, program=program, runtime=common.runtime(runtime, program), vote=vote, rate=rate,
            chunking=chunking, questions=questions, chains=chains, seed=seed, levels=levels, family=family,
            parameters=common.parameters(set_, recipe),
            sampling=common.sampling(temperature, top_p, found.temperature), gate_kind=FROZEN, card=card,
            alpha=levels_tried[-1],
        ),
        levels_tried, epsilon, delta,
    )  # fmt: skip
    with runtimes.connect(what.plan.runtime) as backend, terminate_on_sigterm():
        common.check_recipe(recipe, what.plan, backend)
        try:
            with progress("certify", quiet or as_json) as shown:
                trials, certified = run(what, backend, out, shown)
        except Interrupted as stop:
            errors.print(f"{stop}; the same command goes on", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None
    if as_json:
        card_path = str(out / "card.json") if certified is not None else None
        common.as_json({"epsilon": epsilon, "delta": delta, "trials": list(trials), "card": card_path})
    else:
        _show(what, trials, certified, out / "card.json")
    if certified is None:
        raise typer.Exit(1)


def _show(what: Certification, trials: Sequence[Trial], card: Card | None, path: Path) -> None:
    """The trials in the order they were made, and what follows."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("alpha", "lost", "e-value", f"certified at {1 / what.delta:g}"):
        table.add_column(name, justify="right")
    for trial in trials:
        passed = f"after {trial.after} questions" if trial.certified else "no"
        table.add_row(f"{trial.alpha:g}", f"{trial.lost}/{trial.n}", f"{trial.e_value:.3g}", passed)
    console.print(table)
    last = trials[-1]
    if not last.certified:
        console.print(
            f"alpha {last.alpha:g} is not shown to lose at most {what.epsilon:g}; the same command with more than "
            f"--questions {last.n} goes on",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    if card is None or card.certificate is None:
        return
    found = card.certificate
    console.print(
        f"the target alone answered {found.right} of {len(found.questions)} right\n"
        f"{found.standing(found.policy, found.alpha, ())}\n"
        f"card: {path}; `a1 eval --calibration {path} --certified` runs that and nothing else",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
