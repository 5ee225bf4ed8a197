"""`a1 eval`: run a program over a task's questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from a1_sgl.cli import common, complete, console, errors, telemetry
from a1_sgl.cli.progress import progress
from a1_sgl.cli.runtimes import Runtimes, takes_runtimes
from a1_sgl.errors import ConfigError

if TYPE_CHECKING:
    from a1_sgl.evals.runner import Eval


_OF_GATES = ("gate", "alpha", "calibration", "certified", "allow_mismatch", "epsilon", "audit_rate", "audit", "online",
             "first_stage", "eta", "explore", "alarm", "alarm_threshold")  # fmt: skip


@takes_runtimes
def eval_(
    context: typer.Context,
    runtimes: Runtimes,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; an interrupted run there is resumed. [required]")
    ] = None,
    program: common.Program = "a1",
    runtime: common.RuntimeName = None,
    vote: common.Vote = None,
    rate: common.Rate = None,
    chunking: common.Chunking = None,
    task: common.TaskName = "chain",
    split: Annotated[str, typer.Option(help="Which questions.")] = "test",
    questions: common.Questions = None,
    chains: common.Chains = 4,
    levels: common.Levels = None,
    data: common.Data = None,
    family: common.Family = None,
    seed: common.Seed = 0,
    alpha: common.CardAlpha = None,
    calibration: common.CardPath = None,
    allow_mismatch: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="A field in which the card may differ from this set-up.")
    ] = None,
    gate: common.CardGate = None,
    certified: common.Certified = False,
    epsilon: Annotated[
        float | None,
        typer.Option(help="For --gate audited: wrong chunks that may be accepted, per decision; alpha only starts it."),
    ] = None,
    audit_rate: Annotated[
        float | None, typer.Option(help="For --gate audited: share of accepted chunks that is audited. [default: 0.1]")
    ] = None,
    audit: Annotated[
        str | None,
        typer.Option(
            help="For --gate audited: how; see `a1 gates`. [default: the task's way]", autocompletion=complete.audits
        ),
    ] = None,
    online: Annotated[
        bool | None, typer.Option(help="Let scores join the gate's bank during the run. [default: what suits the gate]")
    ] = None,
    first_stage: common.FirstStage = None,
    eta: Annotated[
        float,
        typer.Option(help="With --first-stage: most take-overs that may be missed, as a share of its candidates."),
    ] = 0.05,
    explore: Annotated[
        int, typer.Option(help="With --first-stage: one in so many of its candidates is scored all the same.")
    ] = 5,
    alarm: Annotated[
        str | None,
        typer.Option(
            help="On drift: warn, recalibrate or hand-over. [default: no alarm]", autocompletion=complete.alarms
        ),
    ] = None,
    alarm_threshold: Annotated[
        float, typer.Option(help="Wealth of the drift martingale; at most one false alarm in so many runs.")
    ] = 100.0,
    temperature: common.Temperature = None,
    top_p: common.TopP = 1.0,
    set_: common.Parameters = None,
    losses: Annotated[
        bool, typer.Option("--losses", help="Record the target's loss of every token; `a1 report` shows them.")
    ] = False,
    quiet: common.Quiet = False,
    recipe: common.RecipeName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the run would take.")] = False,
    like: Annotated[
        Path | None, typer.Option(metavar="RUN", help="With --dry-run: a run of the same program to go by.")
    ] = None,
    overwrite: common.Overwrite = False,
    metrics: telemetry.MetricsAt = None,
    as_json: common.Json = False,
) -> None:
    """Run a program over questions and grade every chain."""
    from a1_sgl.cli.launch import terminate_on_sigterm
    from a1_sgl.evals.runner import Eval, Interrupted, evaluate
    from a1_sgl.evals.tasks import find_task
    from a1_sgl.programs import find_program

    if out is None and not dry_run:
        raise ConfigError("--out is missing: name a folder for the run, such as --out runs/mine")
    found = find_task(task, data)
    calibrated = common.card(calibration)
    strategy = find_program(program)
    gated = common.check_gated(context, strategy, alpha, _OF_GATES)
    if first_stage is None:
        common.idle(context, ("eta", "explore"), "first_stage", "without --first-stage; name one")
    if alarm is None:
        common.idle(context, ("alarm_threshold",), "alarm", "without --alarm; name one")
    if calibration is None:
        common.idle(context, ("allow_mismatch",), "calibration", "without --calibration; name a card")
    if not dry_run:
        common.idle(context, ("like",), "dry_run", "without --dry-run; give that too")
    plan = Eval(
        task=found, split=split, program=program, runtime=common.runtime(runtime, program),
        vote=vote, rate=rate, chunking=chunking,
        questions=questions, chains=chains, seed=seed, levels=levels, family=family,
        parameters=common.parameters(set_, recipe), sampling=common.sampling(temperature, top_p, found.temperature),
        alpha=common.alpha(alpha, calibrated) if gated else None, card=calibrated if gated else None, online=online,
        gate_kind=common.gate(gate, calibrated), certified=certified, epsilon=epsilon, audit_rate=audit_rate,
        audit=audit, first=first_stage, eta=eta, explore=explore, alarm=alarm, alarm_threshold=alarm_threshold,
        allow_mismatch=tuple(allow_mismatch or ()), losses=losses,
    )  # fmt: skip
    if dry_run:
        _say(plan, like, runtimes, as_json)
        if gated and plan.card is None:
            errors.print(common.NO_CARD, markup=False, highlight=False, soft_wrap=True)
        return
    assert out is not None
    with (
        runtimes.connect(plan.runtime) as backend,
        terminate_on_sigterm(),
        telemetry.listening(plan, backend, metrics) as listen,
    ):
        common.check_recipe(recipe, plan, backend)
        try:
            note = common.NO_CARD if gated and plan.card is None else ""  # said at the end, too
            with progress(f"{strategy.name} {plan.runtime or ''}".strip(), quiet or as_json, note) as shown:
                _, summary = evaluate(plan, backend, out, shown, overwrite=overwrite, listen=listen)
        except Interrupted as stop:
            errors.print(f"{stop}; the same command goes on", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None
    if as_json:
        common.as_json(summary)
        common.report_losses(summary, as_json)
        return
    common.print_summaries({strategy.name: summary})
    common.print_turns(summary["take_over"])
    if gated:
        start = f"from {len(plan.card.scores):,} scores of {calibration}" if plan.card else common.NO_CARD
        console.print(f"gate: {plan.gate_kind}, {start}", markup=False, highlight=False, soft_wrap=True)
    if summary["certificate"] is not None:
        console.print(summary["certificate"]["says"], markup=False, highlight=False, soft_wrap=True)
    console.print(f"run: {out}", highlight=False, soft_wrap=True)
    common.report_losses(summary)


def _say(plan: Eval, like_run: Path | None, runtimes: Runtimes, as_json: bool) -> None:
    """What the run would take."""
    from a1_sgl.evals.estimate import like, most
    from a1_sgl.evals.speed.rho import Rho
    from a1_sgl.records import RunFolder

    estimate = most(plan) if like_run is None else like(plan, RunFolder.read(like_run))
    if as_json:
        common.as_json(estimate)
        return
    least = "up to " if estimate.bound else "about "
    console.print(
        f"{plan.strategy.name} on {plan.task.name}, split {plan.split}: {estimate.questions} questions x {plan.chains} "
        f"chains = {estimate.chains:,} chains", highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"requests: {least}{estimate.requests:,}", highlight=False)
    for name, tokens in estimate.decode.items():
        console.print(f"{name} decode: {least}{tokens:,} tokens", highlight=False)
    if estimate.seconds is None:
        console.print("not counted: redraws, forks, audits, ratings, prompts; time: unknown", highlight=False)
        console.print("--like RUN scales what a small run of the same program took", highlight=False)
    else:
        console.print(f"time: about {estimate.seconds:,.0f} s", highlight=False)
    kin = {"draft_tokens", "take_over"} <= set(plan.strategy.own)
    if kin and plan.alpha is not None and (found := Rho.find(runtimes.state)) is not None:
        longest = int(plan.arguments.get("draft_tokens", plan.strategy.default("draft_tokens")))
        take_over = str(plan.arguments.get("take_over", plan.strategy.default("take_over")))
        console.print(found.says(runtimes.in_flight, longest, plan.alpha, take_over), highlight=False, soft_wrap=True)
