"""How cost grows: ``python -m a1_sgl.evals.benchmarks.growth --out runs/growth``.

Chains of `a1` with chunks of eight tokens, whatever they say, and a gate that hands over a quarter of them, on the
pocket pair of `stories`. One number changes at a time: chains of a question, turns, questions, chains in flight. Where
cost is linear, seconds a chain (with turns: a chunk) do not change once the runtimes are full. Beside `a1`, `a1_sync`
says what the barrier costs as a question's chains become more. Draws ``growth.png`` and writes ``growth.json``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.evals.runner import evaluate
from a1_sgl.evals.speed.arms import Bench, Fixed
from a1_sgl.evals.speed.race import Run, measure
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.launch.runtimes import serve
from a1_sgl.session import Backend

TOKENS = 8
CURVES = {
    "chains": (1, 4, 16, 64),
    "turns": (1, 4, 16, 64),
    "questions": (1, 8, 64, 250, 500),
    "in_flight": (1, 8, 64, 250, 1000),
}
"""What changes, and to what."""


@dataclass(frozen=True)
class Point:
    """One measurement; `chains` are a question's."""

    curve: str
    arm: str
    chains: int = 4
    turns: int = 4
    questions: int = 32
    in_flight: int = 64

    @property
    def at(self) -> int:
        """Where on its curve."""
        return int(getattr(self, self.curve))


def points() -> Iterator[Point]:
    """All of them. As many chains in all wherever something else changes, as far as that can be."""
    for m in CURVES["chains"]:
        for arm in ("a1", "a1_sync") if m >= 4 else ("a1",):  # of fewer chains it cannot hand over a quarter
            yield Point("chains", arm, chains=m, questions=128 // m)
    for turns in CURVES["turns"]:
        yield Point("turns", "a1", turns=turns, questions=16)
    for questions in CURVES["questions"]:
        yield Point("questions", "a1", questions=questions, chains=1)
    for in_flight in CURVES["in_flight"]:
        yield Point("in_flight", "a1", in_flight=in_flight, questions=max(4, min(250, in_flight)), chains=4)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/growth"),
    repeats: Annotated[int, typer.Option(help="Runs of each point; the fastest is shown, and the range.")] = 2,
) -> None:
    """Seconds, client CPU and waits a chain, by chains, turns, questions and chains in flight."""
    task, found = find_task("stories"), []
    with serve(pocket_specs(task.name), out / "logs") as (draft, target):
        for point in points():
            with Backend.connect(draft.url, target.url, in_flight=point.in_flight) as pair:
                for number in range(repeats):
                    found.append(_measure(point, pair, out / f"{point.curve}-{point.at}-{point.arm}-{number + 1}"))
    out.joinpath("growth.json").write_text(json.dumps(found, indent=1))
    Console(width=100).print(table(found))
    draw(found, out / "growth.png")


def _measure(point: Point, pair: Backend, folder: Path) -> dict[str, Any]:
    bench = Bench(
        task=find_task("stories"), questions=point.questions, chains=point.chains, alpha=0.25, arms=(point.arm,),
        fixed=Fixed(point.turns, TOKENS), paced=True, in_flight=point.in_flight,
    )  # fmt: skip
    arm = bench.plan(point.arm)
    pair.flush_cache()
    cpu = time.process_time()
    done, _ = evaluate(arm, pair, folder)
    cpu = time.process_time() - cpu
    run: Run = measure(arm, done, 0)
    return asdict(point) | {
        "at": point.at, "wall_s": run.wall_s, "all": run.chains, "cpu_s": cpu, "waits_s": run.waits_s, "rate": run.rate,
    }  # fmt: skip


def table(found: list[dict[str, Any]]) -> Table:
    """A row for each point: the fastest of its runs."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "", "arm", "all chains", "ms a chain [range]", "ms a chunk", "client CPU ms a chain", "barrier"):
        shown.add_column(name, justify="left" if name in ("", "arm") else "right")
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for one in found:
        groups.setdefault((one["curve"], one["at"], one["arm"]), []).append(one)
    for (curve, at, arm), runs in groups.items():
        runs.sort(key=lambda one: one["wall_s"])
        best, each = runs[0], [1000 * one["wall_s"] / one["all"] for one in runs]
        waits = best["waits_s"]
        shown.add_row(
            curve, f"{at:,}", arm, f"{best['all']:,}", f"{each[0]:.0f} [{each[0]:.0f}, {each[-1]:.0f}]",
            f"{each[0] / best['turns']:.1f}", f"{1000 * best['cpu_s'] / best['all']:.1f}",
            f"{waits['barrier'] / sum(waits.values()):.0%}",
        )  # fmt: skip
    return shown


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """A figure of milliseconds a chain, on logarithmic axes; with turns, a chunk."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(CURVES), sharey=True), CURVES, strict=True):
        arms = sorted({one["arm"] for one in found if one["curve"] == curve})
        for arm in arms:
            best: dict[int, float] = {}
            for one in found:
                if (one["curve"], one["arm"]) == (curve, arm):
                    value = 1000 * one["wall_s"] / one["all"] / (one["turns"] / 4)
                    best[one["at"]] = min(best.get(one["at"], value), value)
            axes.plot(list(best), list(best.values()), marker="o", markersize=3, label=arm)
        axes.set(xscale="log", yscale="log", xlabel=curve.replace("_", " "))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
        if len(arms) > 1:
            axes.legend(frameon=False, fontsize=7)
    figure.axes[0].set_ylabel("ms for four turns of a chain")
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    typer.run(main)
