"""What a decision costs after a million of them, on one core, and what a gate holds after many finished questions.

Peer: the same rank from a sorted numpy array, with ``searchsorted`` for the look-up and ``insert`` for the new score.

    python -m a1_sgl.evals.benchmarks.gate_speed
    python -m a1_sgl.evals.benchmarks.gate_speed --memory
"""

from __future__ import annotations

import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.conformal import BUDGETS, GATES, Gate, ScoreBank, make


def main(
    n: Annotated[int, typer.Option(help="Scores in the bank.")] = 1_000_000,
    decisions: Annotated[int, typer.Option(help="Decisions a round.")] = 20_000,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 7,
    seed: Annotated[int, typer.Option(help="Of the scores.")] = 0,
    memory: Annotated[bool, typer.Option("--memory", help="What gates hold instead.")] = False,
    questions: Annotated[int, typer.Option(help="With --memory: finished questions, of 5 chunks each.")] = 100_000,
) -> None:
    """Microseconds of CPU a decision: median of rounds, with the lowest and highest; or megabytes held."""
    if memory:
        _memory(questions, seed)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(seed)
    scores = rng.exponential(size=n).tolist()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("look-up and insertion")
    for name in ("median", "lowest", "highest", "of the peer"):
        table.add_column(f"{name}" + ("" if "peer" in name else ", us"), justify="right")

    def measure(step: Callable[[float, int], object], count: int) -> list[float]:
        found = []
        for _ in range(rounds):
            fresh = rng.exponential(size=count).tolist()
            started = time.process_time()
            for i, score in enumerate(fresh):
                step(score, i)
            found.append((time.process_time() - started) / count * 1e6)
        return found

    sorted_ = np.sort(scores)

    def peer(score: float, i: int) -> None:
        nonlocal sorted_
        at = int(np.searchsorted(sorted_, score))
        sorted_ = np.insert(sorted_, at, score)

    slow = measure(peer, max(20, decisions // 1000))
    base = statistics.median(slow)

    def row(name: str, found: list[float]) -> None:
        mid = statistics.median(found)
        table.add_row(name, f"{mid:.1f}", f"{min(found):.1f}", f"{max(found):.1f}", f"1/{base / mid:.0f}")

    row("peer: numpy insertion", slow)
    bank = ScoreBank(scores)
    row("ScoreBank, rank alone", measure(lambda score, i: bank.rank(score, add=True), decisions))
    for name in (*GATES, *BUDGETS):
        gate = make(name, 0.25, chains=16)
        _fill(gate, scores)
        row(f"gate {name}", measure(_step(gate), decisions))
    console = Console()
    console.print(f"{n:,} scores, {rounds} rounds of {decisions:,} decisions, one core", highlight=False)
    console.print(table)


def _fill(gate: Gate, scores: list[float]) -> None:
    if isinstance(gate.bank, ScoreBank):
        gate.bank.restore(scores)
        return
    for i, score in enumerate(scores):  # 15 turns, 16 chains: 240 chunks a question, as in a long eval
        if i % 240 == 0:
            gate.begin(i // 240)
        gate.calibrate(score, question=i // 240, sample=i % 16, turn=i // 16 % 15)
        if i % 240 == 239:
            gate.end(i // 240)


def _step(gate: Gate) -> Callable[[float, int], object]:
    return lambda score, i: gate(score, question=10**6 + i // 240, sample=i % 16, turn=i // 16 % 15)


def _memory(questions: int, seed: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("gate")
    for name in ("MB after half", "MB after all", "bytes a decision"):
        table.add_column(name, justify="right")
    for name in (*GATES, *BUDGETS):
        rng = np.random.default_rng(seed)
        tracemalloc.start()
        gate, half = make(name, 0.2, chains=5), 0.0
        gate.calibrate(1.0, question="card")  # one of them decides by a card alone
        for question in range(questions):
            gate.begin(question)
            for sample, score in enumerate(rng.exponential(size=5).tolist()):
                gate(score, question=question, sample=sample, turn=0)
            gate.end(question)
            if question == questions // 2:
                half = tracemalloc.get_traced_memory()[0]
        whole = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        table.add_row(name, f"{half / 1e6:.1f}", f"{whole / 1e6:.1f}", f"{whole / questions / 5:.0f}")
    console = Console()
    console.print(f"{questions:,} finished questions of 5 chunks", highlight=False)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
