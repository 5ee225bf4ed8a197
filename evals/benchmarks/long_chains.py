"""Long chains: does the rate hold at alpha 0.05 over 120 turns, by turn and by question?

    python -m a1_sgl.evals.benchmarks.long_chains                       # a simulated stream
    python -m a1_sgl.evals.benchmarks.long_chains --pocket runs/long    # real runtimes, one token a chunk

The pocket run drafts one token a turn, for 120 turns, whether or not an answer is complete: what follows an answer is
no reasoning, but it is text whose scores drift, which is what is asked of here.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.conformal import Decided, Place, Rates, make
from a1_sgl.evals.benchmarks.streams import Stream
from a1_sgl.session import Query  # makes sglang importable on a machine without a GPU

GATES = ("marginal", "mondrian-turn", "mondrian-question", "balanced")
console = Console(width=100)


def main(
    alpha: Annotated[float, typer.Option(help="Nominal rate.")] = 0.05,
    turns: Annotated[int, typer.Option(help="Turns of a chain.")] = 120,
    questions: Annotated[int, typer.Option(help="Questions.")] = 40,
    chains: Annotated[int, typer.Option(help="Chains of a question.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the stream and the gates.")] = 0,
    pocket: Annotated[Path | None, typer.Option(help="Serve the pocket pair, with logs in this folder.")] = None,
) -> None:
    """Realised rates with 95% intervals, by blocks of turns and by question."""
    if pocket is None:
        stream = list(Stream(questions, chains, turns).draw(seed))
        rates = {}
        for name in GATES:
            gate = make(name, alpha, seed=seed)
            rates[name] = Rates.of(
                alpha,
                [
                    Decided(Place(q, s, t), score, gate(score, question=q, sample=s, turn=t).take_over)
                    for q, s, t, score in stream
                ],
            )
    else:
        rates = _pocket(pocket, alpha, turns, questions, chains, seed)
    show(rates, turns)


def show(rates: dict[str, Rates], turns: int) -> None:
    """The tables."""
    block = max(1, turns // 8)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rate, % [95%]")
    for name in rates:
        table.add_column(name, justify="right")
    table.add_row("all chunks", *(_cell(one.overall) for one in rates.values()))
    blocks = {name: one.by(lambda place: place.turn // block) for name, one in rates.items()}
    for number in sorted({key for found in blocks.values() for key in found}, key=lambda key: int(str(key))):
        first = int(str(number)) * block
        label = f"turns {first} to {min(first + block, turns) - 1}"
        table.add_row(label, *(_cell(found[number]) if number in found else "-" for found in blocks.values()))
    for title, pick in (("lowest question", min), ("highest question", max)):
        table.add_row(
            title,
            *(_cell(pick(one.by("question").values(), key=lambda r: r.hits / r.n)) for one in rates.values()),
        )
    console.print(table)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in rates:
        table.add_column(name, justify="right")
    rows: dict[str, Any] = {
        "mean deviation by turn": lambda a: statistics.fmean(a.deviations("turn")),
        "largest": lambda a: max(a.deviations("turn")),
        "mean deviation by question": lambda a: statistics.fmean(a.deviations("question")),
        "largest ": lambda a: max(a.deviations("question")),
        "turns whose interval holds alpha": lambda a: _held(a.by("turn").values(), a.alpha),
        "questions whose interval does": lambda a: _held(a.by("question").values(), a.alpha),
        "selectivity": lambda a: a.selectivity(),
    }
    for title, measure in rows.items():
        found = [measure(one) for one in rates.values()]
        table.add_row(title, *("-" if one is None else f"{one:.1%}" for one in found))
    console.print()
    console.print(table)


def _cell(rate: Any) -> str:
    low, high = rate.interval()
    return f"{100 * rate.hits / rate.n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _held(rates: Iterable[Any], alpha: float) -> float:
    inside: list[bool] = [low <= alpha <= high for low, high in (rate.interval() for rate in rates)]
    return sum(inside) / len(inside)


def _pocket(out: Path, alpha: float, turns: int, questions: int, chains: int, seed: int) -> dict[str, Rates]:
    import sglang as sgl

    from a1_sgl.evals.tasks import find_task
    from a1_sgl.launch.pocket import pocket_specs
    from a1_sgl.launch.runtimes import serve
    from a1_sgl.programs import program
    from a1_sgl.session import Backend, Chain, run_chains
    from a1_sgl.types import VerdictEvent

    @program(samples=chains, gate="required", takes_over=True)
    @sgl.function
    def endless(s: Any, query: Query, gate: Any) -> Any:
        def body(chain: Chain) -> None:
            for _ in range(turns):
                if chain.judge(chain.draft(1), gate, replace=True):
                    chain.target(1)
                chain.end_turn()

        return run_chains(s, query, body)

    task = find_task("chain")
    asked = task.questions("test", questions, seed, "9:10")
    rates = {}
    with (
        serve(pocket_specs(), out) as (draft, target),
        Backend.connect(draft.url, target.url, in_flight=64) as pair,
    ):
        for name in GATES:
            gate = make(name, alpha, seed=seed)
            verdicts: list[VerdictEvent] = []

            def hear(event: Any, verdicts: list[Any] = verdicts) -> None:
                if isinstance(event, VerdictEvent):
                    verdicts.append(event)

            def solve(question: Any, gate: Any = gate, hear: Any = hear) -> None:
                state = endless.run(
                    question=question, gate=gate, listener=hear, backend=pair, temperature=task.temperature
                )
                assert not state.ret_value.lost, state.ret_value.lost[0]

            with ThreadPoolExecutor(16) as pool:
                list(pool.map(solve, asked))
            rates[name] = Rates.of(alpha, [Decided(v.place, v.score, v.take_over) for v in verdicts])
            console.print(f"{name}: {len(verdicts):,} decisions", highlight=False)
    return rates


if __name__ == "__main__":
    typer.run(main)
