"""`a1 solve`: one question, watched."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from a1_sgl.cli import common, complete, console, errors
from a1_sgl.cli.runtimes import Runtimes, takes_runtimes
from a1_sgl.errors import ConfigError
from a1_sgl.types import (
    AnswerEvent,
    AuditEvent,
    CalibrationEvent,
    ChainEvent,
    ChunkEvent,
    DropEvent,
    Event,
    LostEvent,
    PromptEvent,
    RatingEvent,
    VerdictEvent,
)

if TYPE_CHECKING:
    from a1_sgl.conformal import Card
    from a1_sgl.evals.runner import Eval
    from a1_sgl.session import Backend
    from a1_sgl.types import Question

_COLOURS = {"draft": "cyan", "target": "magenta"}


@takes_runtimes
def solve(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="What to solve.")],
    runtimes: Runtimes,
    program: common.Program = "a1",
    runtime: common.RuntimeName = None,
    vote: common.Vote = None,
    rate: common.Rate = None,
    chunking: common.Chunking = None,
    alpha: common.CardAlpha = None,
    calibration: common.CardPath = None,
    gate: common.CardGate = None,
    certified: common.Certified = False,
    chains: Annotated[int, typer.Option(help="How many chains.")] = 1,
    task: Annotated[
        str,
        typer.Option("--task", help="Task whose prompt, chunks and limits are used.", autocompletion=complete.tasks),
    ] = "chain",
    family: common.Family = None,
    temperature: common.Temperature = None,
    top_p: common.TopP = 1.0,
    seed: common.Seed = 0,
    set_: common.Parameters = None,
) -> None:
    """Solve a question and show the chains as they grow: who wrote each chunk, and its p-value."""
    from a1_sgl.evals.environment import packages
    from a1_sgl.evals.runner import Eval
    from a1_sgl.evals.tasks import find_task
    from a1_sgl.programs import find_program

    found = find_task(task)
    needs_gate = common.check_gated(
        context, find_program(program), alpha, ("gate", "alpha", "calibration", "certified")
    )  # fmt: skip
    card = common.card(calibration)
    plan = Eval(
        task=found, split=found.splits[-1], program=program,
        runtime=common.runtime(runtime, program), chains=chains, seed=seed, family=family,
        parameters=common.parameters(set_),
        sampling=common.sampling(temperature, top_p, found.temperature), vote=vote, rate=rate,
        chunking=chunking, alpha=common.alpha(alpha, card) if needs_gate else None, card=card if needs_gate else None,
        gate_kind=common.gate(gate, card), certified=certified,
    )  # fmt: skip
    asked = found.question(question, family)
    with runtimes.connect(plan.runtime) as backend:
        if plan.card is not None:
            plan.card.check(plan.protocol(backend), [asked.id], alpha=plan.alpha, packages=packages())
        elif needs_gate and (pocket := _pocket_card(plan, backend, asked)) is not None:
            plan = replace(plan, card=pocket)
            errors.print(f"p-values: by {len(pocket.scores):,} scores of the pocket pair's own card", highlight=False)
        elif needs_gate:
            errors.print(common.NO_CARD, markup=False, highlight=False, soft_wrap=True)
        standing = plan.standing(backend, [asked.id])
        result = plan.run(asked, range(chains), backend, plan.gate(), _Show(chains))
    console.print(f"\nanswer: {result.answer if result.answer is not None else 'none'}", style="bold", markup=False)
    if standing is not None:
        console.print(str(standing), markup=False, highlight=False, soft_wrap=True)
    calls = result.usage
    console.print(
        f"draft wrote {calls.decode.get('draft', 0)} tokens, target {calls.decode.get('target', 0)}; "
        f"target prefilled {calls.prefill.get('target', 0)}; cached share of prompts {calls.cached_share:.1%}",
        highlight=False,
    )
    for lost in result.lost:
        console.print(f"chain {lost.sample} was lost: {lost.error}", markup=False)


def _pocket_card(plan: Eval, backend: Backend, asked: Question) -> Card | None:
    """The card that comes with the pocket pair, if that is what is served and it is asked as the card has it."""
    from a1_sgl.conformal import Card
    from a1_sgl.launch.pocket import PAIRS, card_path

    if plan.task.name not in PAIRS:
        return None
    card = Card.load(card_path(plan.task.name))
    try:
        card.check(plan.protocol(backend), [asked.id], alpha=plan.alpha)
    except ConfigError:
        return None
    return card


class _Show:
    """Prints events as they come; many chains are told apart by number."""

    def __init__(self, chains: int) -> None:
        self.chains = chains
        self._chunks: dict[int, ChunkEvent] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, AnswerEvent):
            if len(event.support) > 1:
                shares = ", ".join(f"{answer} {share:.0%}" for answer, share in event.support.items())
                console.print(f"{event.vote} vote: {shares}", markup=False, highlight=False)
        elif not isinstance(event, PromptEvent | CalibrationEvent | AuditEvent):
            self._chain(event)

    def _chain(self, event: ChunkEvent | VerdictEvent | DropEvent | RatingEvent | ChainEvent | LostEvent) -> None:
        chunk = self._chunks.pop(event.sample, None)
        if isinstance(event, VerdictEvent):
            if chunk is not None:
                self._line(chunk, _verdict(event), struck=event.replaced)
            return
        if chunk is not None:  # nobody judged it
            self._line(chunk, "")
        if isinstance(event, ChunkEvent):
            self._chunks[event.sample] = event  # shown with its verdict, if there is one
        elif isinstance(event, DropEvent):
            if event.reason != "replaced" and event.tokens:
                self._note(event.sample, f"{event.tokens} tokens {event.reason}")
        elif isinstance(event, RatingEvent):
            self._note(event.sample, f"{event.by} rating {event.rating:.3f}")
        elif isinstance(event, ChainEvent):
            if self.chains > 1:
                self._note(event.sample, f"ends: {event.answer or event.ending}")
        else:
            self._note(event.sample, f"lost: {event.error}")

    def _line(self, chunk: ChunkEvent, what: str, struck: bool = False) -> None:
        colour = _COLOURS.get(chunk.author, "")
        line = Text(f"{chunk.sample:>3} " if self.chains > 1 else "")
        line.append(f"{chunk.author:<8}", style=colour)
        line.append(f"{' '.join(chunk.text.split()) or '(end)':<43}", style=f"{colour}{' strike' if struck else ''}")
        line.append(f"  {what}", style="bold red" if "->" in what else "dim")
        console.print(line)

    def _note(self, sample: int, what: str) -> None:
        console.print(f"{sample:>3} " * (self.chains > 1) + what, markup=False, highlight=False)


def _verdict(event: VerdictEvent) -> str:
    if event.unseen:
        return "accepted by the draft's evidence" + (" -> target" if event.take_over else "")
    by = [] if event.rating is None else [f"rating {event.rating:.2f} of 9"]
    if event.p_value is not None:
        by.append(f"p = {event.p_value:.3f}")
    return (", ".join(by) or f"score {event.score:.3f}") + (" -> target" if event.take_over else "")
