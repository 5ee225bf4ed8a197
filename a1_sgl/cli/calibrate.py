"""`a1 calibrate`: collect the scores that a gate starts from, and certify an alpha."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from a1_sgl.cli import common, console, errors
from a1_sgl.cli.progress import progress
from a1_sgl.cli.runtimes import Runtimes, takes_runtimes
from a1_sgl.conformal.gates import DEFAULT
from a1_sgl.errors import ConfigError

if TYPE_CHECKING:
    from a1_sgl.conformal import Certificate


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
    certify: Annotated[
        str | None,
        typer.Option(
            metavar="epsilon=E,delta=D",
            help="Find the cheapest alpha that loses at most E accuracy against the target, with probability 1 - D.",
        ),
    ] = None,
    alphas: Annotated[str, typer.Option(help="What --certify tries, as FIRST:LAST:STEP or A,B,C.")] = "0.1:0.5:0.1",
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
) -> None:
    """Run a program on calibration questions and write a card with every chunk's score.

    With --certify the target alone and the program at each of --alphas answer the same questions, from the largest
    alpha down, until one fails; the card is that of the cheapest alpha certified. Exit status 1 if none is.
    """
    from a1_sgl.cli.launch import terminate_on_sigterm
    from a1_sgl.evals.certify import certify_alphas
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
    risk = _risk(certify) if certify else None
    tried = common.span(alphas)
    with runtimes.connect(plan.runtime) as backend, terminate_on_sigterm():
        common.check_recipe(recipe, plan, backend)
        try:
            if risk is None:
                with progress("calibrate", quiet) as shown:
                    card, summary = run(plan, backend, out, shown)
            else:
                with progress("certify", quiet) as shown:
                    certificate, best = certify_alphas(plan, tried, *risk, backend, out, shown)
        except Interrupted as stop:
            errors.print(f"{stop}; the same command goes on", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None
    if risk is not None:
        _show(certificate)
        if best is None:
            raise typer.Exit(1)
        card, summary = best
    card.save(out / "card.json")
    console.print(
        f"{len(card.scores):,} scores from {len(card.questions)} questions, take-over rate "
        f"{common.percent(summary['take_over'], 'realised')} at alpha {card.alpha:g}\n"
        f"smallest alpha that they alone can attain: {card.smallest_alpha:.2g}\ncard: {out / 'card.json'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    common.report_losses(summary)


def _risk(text: str) -> tuple[float, float]:
    """Parses ``epsilon=E,delta=D``."""
    found: dict[str, Any] = {}
    try:
        for part in text.split(","):
            name, _, value = part.partition("=")
            found[name.strip()] = float(value)
        if found.keys() != {"epsilon", "delta"} or not all(0 < value < 1 for value in found.values()):
            raise ValueError
    except ValueError:
        raise ConfigError(f"--certify takes epsilon=E,delta=D, both between 0 and 1; not {text!r}") from None
    return found["epsilon"], found["delta"]


def _show(certificate: Certificate) -> None:
    """The tests in the order they were made, and what follows."""
    from a1_sgl.conformal.risk import risk_interval

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("alpha", "lost", "risk, 95% interval", "p-value", "certified"):
        table.add_column(name, justify="right")
    for test in certificate.tests:
        low, high = risk_interval(test)
        table.add_row(
            f"{test.alpha:g}", f"{test.losses}/{test.n}", f"{test.losses / test.n:.1%} [{low:.1%}, {high:.1%}]",
            f"{test.p_value:.3g}" if test.p_value is not None else "-", "yes" if test.certified else "no",
        )  # fmt: skip
    console.print(table)
    if certificate.alpha is None:
        console.print(
            f"none: no alpha is shown to lose at most {certificate.epsilon:g} at delta {certificate.delta:g}; "
            "try a larger alpha, a larger epsilon or more questions",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        return
    console.print(
        f"alpha {certificate.alpha:g} loses at most {certificate.epsilon:g} of accuracy against the target alone, with "
        f"probability at least {1 - certificate.delta:g} over the choice of calibration questions",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
