"""Every program on the pocket pair, on the same questions, and what a take-over buys.

python -m a1_sgl.evals.benchmarks.programs --out runs/programs

A row of `RECIPE` is a run; a folder that holds finished rows is gone on with. The report is ``report.html`` in the
folder, with its figures as PNG; the table is printed.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from a1_sgl.evals.page import COLOURS, labels, legend, save, sheet
from a1_sgl.evals.runner import Eval, calibrate, evaluate
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.launch.runtimes import serve
from a1_sgl.records import ChainRecord, RunFolder
from a1_sgl.session import Backend

CHAINS = 8
ALPHA = 0.25
CUE = {"cue": "Wait"}
"""The pocket target has not learnt to judge in words, but it corrects errors, and begins with this one."""


@dataclass(frozen=True)
class Row:
    """One run: a program, where it runs, and what differs from the task's defaults."""

    name: str
    program: str
    runtime: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    vote: str | None = None
    rate: str | None = None
    gate: str = "marginal"
    alpha: float | None = None


RECIPE = (
    Row("draft alone", "direct", "draft"),
    Row("target alone", "direct", "target"),
    Row("self_consistency, draft", "self_consistency", "draft"),
    Row("  stops when decided", "self_consistency", "draft", {"stop_when": "decided"}),
    Row("  weighted by own likelihood", "self_consistency", "draft", vote="weighted", rate="own"),
    Row("best_of_n, own likelihood", "best_of_n", "draft", rate="own"),
    Row("  target's likelihood", "best_of_n", rate="target"),
    Row("  judge prompt", "best_of_n", rate="judge"),
    Row("beam_search", "beam_search"),
    Row("dvts", "dvts"),
    Row("tree_of_thought", "tree_of_thought"),
    Row("tree_of_thought, by its cue", "tree_of_thought", parameters=CUE),
    Row("budget_forcing, draft", "budget_forcing", "draft"),
    Row("self_reject, draft", "self_reject", "draft", alpha=ALPHA),
    Row("self_reject_fork, draft", "self_reject_fork", "draft", alpha=ALPHA),
    Row("a1, continue", "a1", parameters={"take_over": "continue"}, alpha=ALPHA),
    Row("a1, replace", "a1", alpha=ALPHA),
    Row("a1, resample", "a1", parameters={"take_over": "resample"}, alpha=ALPHA),
    Row("a1, turn-budget of 2", "a1", gate="turn-budget", alpha=ALPHA),
    Row("a1_sync, budget of 2", "a1_sync", parameters={"budget": 2}),
    Row("a1_lookahead", "a1_lookahead", alpha=ALPHA),
    Row("spec_reason, threshold 7", "spec_reason"),
    Row("spec_reason, by its cue", "spec_reason", parameters=CUE),
    Row("speculative_thinking", "speculative_thinking"),
    Row("route", "route", gate="mondrian-turn", alpha=ALPHA),
)
CURVES: Mapping[str, Sequence[Row]] = {
    "a1": [Row(f"a1 at {a:g}", "a1", alpha=a) for a in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)],
    "a1_sync": [Row(f"a1_sync, budget {b}", "a1_sync", parameters={"budget": b}) for b in (1, 3, 4, 6)],
    "spec_reason": [
        Row(f"spec_reason, threshold {t}", "spec_reason", parameters={"threshold": t}) for t in (2, 5, 8.5)
    ],
    "spec_reason, cue": [
        Row(f"spec_reason by its cue, {t}", "spec_reason", parameters={**CUE, "threshold": t}) for t in (3, 5, 8, 8.7)
    ],
    "random": [Row(f"random at {a:g}", "a1", gate="random", alpha=a) for a in (0.25, 0.5, 0.75, 0.9)],
}
ALSO = {
    "a1": "a1, replace",
    "a1_sync": "a1_sync, budget of 2",
    "spec_reason": "spec_reason, threshold 7",
    "spec_reason, cue": "spec_reason, by its cue",
}
"""Rows of the table that are points of a curve too."""


@dataclass(frozen=True)
class Run:
    """A finished row: its summary and its chains, question by question."""

    row: Row
    summary: Mapping[str, Any]
    chains: Mapping[str, Sequence[ChainRecord]]

    @property
    def rate(self) -> float | None:
        """Share of turns that were handed over."""
        return self.summary["take_over"]["realised"]  # type: ignore[no-any-return]

    @property
    def accuracy(self) -> float:
        """Mean accuracy of a chain."""
        return self.summary["accuracy"]["mean"]  # type: ignore[no-any-return]


def main(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report.")],
    questions: Annotated[int, typer.Option(help="Test questions.")] = 60,
    seed: Annotated[int, typer.Option(help="Of questions and gates.")] = 0,
    curves: Annotated[bool, typer.Option(help="Also what a take-over buys, over rates.")] = True,
) -> None:
    """One table of all programs, and two figures."""
    task = find_task("chain")
    plan: dict[str, Any] = {
        "task": task, "split": "test", "questions": questions, "chains": CHAINS, "seed": seed,
    }  # fmt: skip
    runs: dict[str, Run] = {}
    rows = [*RECIPE, *(itertools.chain(*CURVES.values()) if curves else ())]
    with serve(pocket_specs(), out / "logs") as (draft, target), Backend.connect(draft.url, target.url) as pair:
        for row in rows:
            card = None
            if row.alpha is not None:  # gates start from scores of other questions, scored as this program scores
                collected = Eval(
                    **plan | {"split": "calibration", "questions": 40}, program=row.program, runtime=row.runtime,
                    parameters=row.parameters, alpha=ALPHA, gate_kind="marginal",
                )  # fmt: skip
                same = json.dumps([row.program, row.runtime, dict(row.parameters)], sort_keys=True)
                folder = out / "calibration" / "".join(c if c.isalnum() else "-" for c in same).strip("-")
                card, _ = calibrate(collected, _backend(pair, row), folder)
            backend = _backend(pair, row)
            pair.flush_cache()  # nobody profits from what another computed
            made = Eval(
                **plan, program=row.program, runtime=row.runtime, parameters=row.parameters, vote=row.vote,
                rate=row.rate, alpha=row.alpha, gate_kind=row.gate, card=card,
            )  # fmt: skip
            name = "".join(c if c.isalnum() else "-" for c in row.name).strip("-")
            folder_, summary = evaluate(made, backend, out / name)
            runs[row.name] = Run(row, summary, _by_question(folder_))
            print(f"{row.name.strip()}: {summary['accuracy']['mean']:.3f}, {summary['wall_s']:.0f} s", flush=True)
    head, body = _table([runs[row.name] for row in RECIPE])
    table = Table(*head, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for line in body:
        table.add_row(*line)
    console = Console(width=132)
    console.print(table)
    about = (
        f"Pocket pair, task chain, {questions} test questions x {CHAINS} chains, temperature {task.temperature}, seed "
        f"{seed}. mean: accuracy of a chain, with a 95% interval clustered by question; answer: of the program's own "
        "vote; tokens in thousands."
    )
    console.print(about)
    tables, figures = [{"title": "Programs", "head": head, "rows": body}], {}
    if curves:
        points = {
            name: [runs[row.name] for row in of] + ([runs[ALSO[name]]] if name in ALSO else [])
            for name, of in CURVES.items()
        }
        needed = _needed(points, runs["target alone"])
        for line in needed:
            console.print(*line)
        tables.append(
            {
                "title": "Rate needed to come within 1 point of the target alone",
                "rows": needed,
                "head": ["rule", "rate"],
            }
        )
        figures = {"rates": partial(_rates, points, runs), "cost": partial(_cost, points["a1"], runs)}
    for path in save(out / "report.html", "Programs", about, tables, figures):
        console.print(str(path))


def _by_question(folder: RunFolder) -> dict[str, list[ChainRecord]]:
    groups: dict[str, list[ChainRecord]] = defaultdict(list)
    for chain in folder.chains:
        groups[chain.question].append(chain)
    return groups


def _table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    head = ["program", "mean", "", f"maj@{CHAINS}", f"pass@{CHAINS}", "answer", "handed over", "draft", "dropped",
            "target", "prefill", "wall s"]  # fmt: skip
    rows = []
    for run in runs:
        s, tokens = run.summary, run.summary["tokens"]
        mean = s["accuracy"]
        rows.append(
            [
                run.row.name,
                f"{100 * mean['mean']:.1f}",
                f"[{100 * mean['low']:.1f}, {100 * mean['high']:.1f}]",
                f"{100 * s['maj_at'][str(CHAINS)]['mean']:.1f}",
                f"{100 * s['pass_at'][str(CHAINS)]['mean']:.1f}",
                f"{100 * s['answer_accuracy']['mean']:.1f}",
                "-" if run.rate is None else f"{100 * run.rate:.1f}%",
                *(f"{tokens[key] / 1000:.1f}" for key in ("draft_decode",)),
                f"{(tokens['draft_dropped'] + tokens['target_dropped']) / 1000:.1f}",
                *(f"{tokens[key] / 1000:.1f}" for key in ("target_decode", "target_prefill")),
                f"{s['wall_s']:.0f}",
            ]
        )
    return head, rows


def _needed(points: Mapping[str, Sequence[Run]], target: Run) -> list[list[str]]:
    """The smallest rate that was run from which on a rule is within 1 point of the target, and the one below it."""
    lines = []
    for name, runs in points.items():
        ranked = sorted((run for run in runs if run.rate is not None), key=lambda run: run.rate or 0.0)
        enough = [run for run in ranked if run.accuracy >= target.accuracy - 0.01]
        best = max(ranked, key=lambda run: run.accuracy)
        if enough:
            below = [run for run in ranked if (run.rate or 0) < (enough[0].rate or 0)]
            last = f"; {below[-1].rate:.1%} is not ({below[-1].accuracy:.1%})" if below else ""
            lines.append([name, f"{enough[0].rate:.1%} is enough ({enough[0].accuracy:.1%}){last}"])
        else:
            lines.append([name, f"none that was run; best {best.accuracy:.1%} at {best.rate:.1%}"])
    return lines


ACCURACY = "accuracy of a chain, or of the\nvote where that is said"


def _rates(points: Mapping[str, Sequence[Run]], runs: Mapping[str, Run], narrow: bool) -> Figure:
    figure, (axes,) = sheet(narrow, 5)
    labels(axes, narrow, "share of turns handed over", ACCURACY)
    for i, (name, of) in enumerate(points.items()):
        ranked = sorted((run for run in of if run.rate is not None), key=lambda run: run.rate or 0.0)
        _points(axes, [run.rate or 0.0 for run in ranked], ranked, name, i)
    for style, name in (("--", "target alone"), (":", "draft alone")):
        axes.axhline(runs[name].accuracy, color="black", linewidth=0.8, linestyle=style, label=name)
    legend(axes, narrow)
    return figure


def _cost(a1: Sequence[Run], runs: Mapping[str, Run], narrow: bool) -> Figure:
    figure, (axes,) = sheet(narrow, 5)
    cost = "target tokens a question: decoded (filled) or, for A1, with prefilled ones (open)"
    labels(axes, narrow, cost, ACCURACY)
    ranked = sorted(a1, key=lambda run: run.rate or 0.0)
    ends = [runs["draft alone"], *ranked, runs["target alone"]]
    per = len(next(iter(runs.values())).chains) * CHAINS
    _points(
        axes, [run.summary["tokens"]["target_decode"] / per for run in ends], ends, "one chain of A1, alpha 0 to 1", 0
    )
    both = [(run.summary["tokens"]["target_decode"] + run.summary["tokens"]["target_prefill"]) / per for run in ends]
    axes.plot(both, [run.accuracy for run in ends], "o", mfc="none", color=COLOURS[0], label="the same, with prefill")
    target = runs["target alone"]
    each = target.summary["tokens"]["target_decode"] / per
    for i, (name, what) in enumerate({"target": target, "draft": runs["draft alone"]}.items(), start=1):
        voted = {int(k): interval["mean"] for k, interval in what.summary["maj_at"].items()}
        x = [k * each for k in voted] if name == "target" else [0.0] * len(voted)
        label = f"self-consistency of the {name}, m = 1 to {CHAINS}"
        axes.plot(x, list(voted.values()), marker="s", linewidth=0.8, color=COLOURS[i], label=label)
    legend(axes, narrow)
    return figure


def _points(axes: Any, x: Sequence[float], runs: Sequence[Run], name: str, i: int) -> None:
    y = [run.accuracy for run in runs]
    low = [run.accuracy - run.summary["accuracy"]["low"] for run in runs]
    high = [run.summary["accuracy"]["high"] - run.accuracy for run in runs]
    axes.errorbar(x, y, yerr=[low, high], marker="o", linewidth=1, capsize=2, color=COLOURS[i], label=name)


def _backend(pair: Backend, row: Row) -> Backend:
    return pair if row.runtime is None else pair.alone(row.runtime)


if __name__ == "__main__":
    typer.run(main)
