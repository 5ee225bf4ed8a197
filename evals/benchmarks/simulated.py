"""How far a simulation is from runs that it has not seen, on the pocket pair.

python -m a1_sgl.evals.benchmarks.simulated --out runs/simulated

Measures what both models cost (`a1 bench rho`), runs `RECIPE`, fits a pair to the first run alone, and simulates the
others twice: replayed, which is what they asked for in simulated time, and planned, which is drawn from the first run
as if the others had never been. A folder that holds finished runs is gone on with; ``--only-simulate`` needs no models.

A shared machine drifts while this goes on. So before and after each run it is measured what the target takes to write a
token, and what is simulated is multiplied by that over what it was around the first run.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.engine import Settings, SGLang, wait
from a1_sgl.evals.environment import machine, packages
from a1_sgl.evals.runner import Eval, evaluate
from a1_sgl.evals.simulate.costs import Pair, Worker, measured
from a1_sgl.evals.simulate.fit import Check, error, fit
from a1_sgl.evals.simulate.fleet import Arrivals, simulate
from a1_sgl.evals.simulate.load import Record, planned
from a1_sgl.evals.speed.rho import BATCHES, CHUNKS, Rho, measure
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.launch.runtimes import Running, serve
from a1_sgl.launch.sizes import cpu_tokens
from a1_sgl.session import Backend

TASK = "stories"
RUNNING = 128
"""Most requests that `a1 launch` has the CPU engine compute at once."""
SEEDS = 5
"""Draws of a plan whose mean is shown."""
AT = 16
"""Requests at once whose decoding tells how fast the machine is."""
PACES = "paces.json"
"""Seconds that the target took to write a token, the mean of before and after a run, by its name."""


@dataclass(frozen=True)
class Row:
    """One run."""

    name: str
    arm: str = "a1"
    alpha: float = 0.25
    in_flight: int = 64
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


RECIPE = (
    Row("a1"),
    Row("a1 again, other questions", seed=1),
    Row("a1 at 0.4", alpha=0.4),
    Row("a1, 16 in flight", in_flight=16),
    Row("a1, continue", parameters={"take_over": "continue"}),
    Row("a1_sync", arm="a1_sync", parameters={"budget": 1}),
    Row("target alone", arm="target"),
    Row("draft alone", arm="draft"),
)


def main(
    out: Annotated[Path, typer.Option(help="Folder for measurements and runs.")],
    questions: Annotated[int, typer.Option(help="Questions of each run.")] = 24,
    chains: Annotated[int, typer.Option(help="Chains of each question.")] = 4,
    only_simulate: Annotated[bool, typer.Option("--only-simulate", help="Take the runs as they are there.")] = False,
) -> None:
    """One table: recorded and simulated, by run."""
    if not only_simulate:
        with serve(pocket_specs(TASK), out / "logs") as (draft, target):
            for running, role in ((draft, "draft"), (target, "target")):
                path = out / f"rho-{role}.json"
                if not path.exists():
                    path.write_text(_rho(running).model_dump_json(indent=1))
            paces, after = _paces(out), 0.0
            for row in RECIPE:
                if _done(row, out):
                    after = 0.0
                    continue
                before = after or _pace(target)
                with Backend.connect(draft.url, target.url, in_flight=row.in_flight) as pair:
                    run(row, pair, out, questions, chains)
                after = _pace(target)
                paces[row.name] = (before + after) / 2
                (out / PACES).write_text(json.dumps(paces, indent=1))
    report(out)


def run(row: Row, pair: Backend, out: Path, questions: int, chains: int) -> None:
    """Makes a run, if it is not there."""
    if _done(row, out):
        return
    task, alone = find_task(TASK), row.arm in ("draft", "target")
    plan = Eval(
        task=task, split="test", program="direct" if alone else row.arm, runtime=row.arm if alone else None,
        chains=chains, questions=questions, seed=row.seed,
        alpha=row.alpha, parameters=row.parameters,
    )  # fmt: skip
    pair.flush_cache()  # nobody profits from what another computed
    _, summary = evaluate(plan, pair.alone(row.arm) if alone else pair, out / _folder(row), overwrite=True)
    print(f"{row.name}: {summary['wall_s']:.1f} s", flush=True)


def report(out: Path) -> None:
    """Fits, simulates, and prints the table."""
    draft_worker, target_worker = (
        Worker(costs=measured(out / f"rho-{role}.json"), running=RUNNING, capacity=_capacity(role))
        for role in ("draft", "target")
    )
    first = Record.read(out / _folder(RECIPE[0]))
    pair = fit(first, Pair(draft=draft_worker, target=target_worker))
    pair.save(out / "pair.yaml")
    paces, found = _paces(out), []
    for row in RECIPE:
        record = Record.read(out / _folder(row))
        slower = paces[row.name] / paces[RECIPE[0].name] if {row.name, RECIPE[0].name} <= paces.keys() else 1.0
        check = _slowed(Check.of(record, pair), slower)
        walls = [slower * _planned(row, first, record, pair, seed) for seed in range(SEEDS)]
        found.append((row, slower, check, statistics.fmean(walls), (min(walls), max(walls))))
    (out / "simulated.json").write_text(json.dumps([_dumped(*one) for one in found], indent=1))
    console = Console(width=116)
    console.print(_table(found))
    console.print(
        f"decode steps x {pair.draft.decode_scale:.2f} (draft), {pair.target.decode_scale:.2f} (target), prefill steps "
        f"x {pair.draft.prefill_scale:.2f}, {pair.target.prefill_scale:.2f} of what rho says; contention "
        f"{pair.contention:.2f}; network {1000 * pair.network:.1f} ms. {len(first.ended)} chains each; the "
        f"pair is fitted to the first run. pace: by how much slower the target wrote around a run than around the "
        f"first; simulated times have it. planned: drawn from the first run, mean of {SEEDS} draws \\[least, most]."
    )


def _folder(row: Row) -> str:
    return row.name.replace(",", "").replace(" ", "-")


def _capacity(role: str) -> int:
    return next(cpu_tokens(spec.model) for spec in pocket_specs(TASK) if spec.role == role)


def _done(row: Row, out: Path) -> bool:
    return (out / _folder(row) / "summary.json").exists()


def _paces(out: Path) -> dict[str, float]:
    path = out / PACES
    return json.loads(path.read_text()) if path.exists() else {}


def _pace(target: Running) -> float:
    return _rho(target, batches=(AT,), chunks=(min(CHUNKS),)).decode[AT]


def _slowed(check: Check, times: float) -> Check:
    """What is simulated, on a machine so many times as slow."""
    return replace(
        check,
        wall=(check.wall[0], check.wall[1] * times),
        throughput=(check.throughput[0], check.throughput[1] / times),
        latency=(check.latency[0], check.latency[1] * times),
        requests={name: (real, made * times) for name, (real, made) in check.requests.items()},
    )


def _rho(running: Running, batches: Sequence[int] = BATCHES, chunks: Sequence[int] = CHUNKS) -> Rho:
    async def found() -> Rho:
        engine = await SGLang.connect(running.url, running.name, settings=Settings())
        try:
            return await measure(
                engine, machine=machine(), packages=packages(), batches=batches, chunks=chunks, running=RUNNING,
                capacity=_capacity(running.name),
            )  # fmt: skip
        finally:
            await engine.close()

    return wait(found())


def _planned(row: Row, first: Record, record: Record, pair: Pair, seed: int) -> float:
    chains, replaces = max(len(one.chains) for one in record.questions), row.parameters.get("take_over") != "continue"
    questions = planned(first, row.arm, row.alpha, chains, len(record.questions), seed=seed, replaces=replaces)
    return simulate(questions, pair, Arrivals(row.in_flight)).wall


def _dumped(row: Row, slower: float, check: Check, wall: float, span: tuple[float, float]) -> dict[str, Any]:
    return {
        "run": row.name, "pace": slower, "wall_s": check.wall, "wall_error": error(check.wall),
        "chains_per_s": check.throughput, "throughput_error": error(check.throughput),
        "question_s": check.latency, "requests": check.requests,
        "planned_s": wall, "planned_span_s": span, "planned_error": wall / check.wall[0] - 1,
    }  # fmt: skip


def _table(found: list[tuple[Row, float, Check, float, tuple[float, float]]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "pace", "wall s", "replayed", "error", "chains/s", "replayed", "error", "planned s", "error"):
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
    for i, (row, slower, check, wall, (low, high)) in enumerate(found):
        table.add_row(
            row.name + ("" if i else " (fitted)"), f"{slower:.2f}", f"{check.wall[0]:.1f}", f"{check.wall[1]:.1f}",
            f"{error(check.wall):+.1%}", f"{check.throughput[0]:.2f}", f"{check.throughput[1]:.2f}",
            f"{error(check.throughput):+.1%}", f"{wall:.1f} [{low:.1f}, {high:.1f}]",
            f"{wall / check.wall[0] - 1:+.1%}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    typer.run(main)
