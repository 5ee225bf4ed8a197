"""`a1 demo`: the whole story on the pocket pair of `stories`, in one table."""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from a1_sgl.cli import common, console, errors
from a1_sgl.cli.progress import progress

ALPHA = 0.25
CALIBRATION_QUESTIONS = 40
QUESTIONS = 60
CHAINS = 4


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs; runs of an earlier demo there are replaced.")]
    = Path("runs/demo"),
    seed: common.Seed = 0,
    as_json: common.Json = False,
) -> None:  # fmt: skip
    """Serve the pocket pair, calibrate, and compare draft alone, target alone and A1."""
    from a1_sgl.cli.launch import terminate_on_sigterm, watching
    from a1_sgl.evals.runner import Eval, calibrate, evaluate
    from a1_sgl.evals.tasks import find_task
    from a1_sgl.launch.pocket import pocket_specs
    from a1_sgl.launch.runtimes import serve
    from a1_sgl.session import Backend

    started = time.monotonic()
    for name in ("calibration", "draft", "target", "a1"):
        shutil.rmtree(out / name, ignore_errors=True)
    task = find_task("stories")

    def plan(program: str, runtime: str | None, **changes: Any) -> Eval:
        settings: dict[str, Any] = {
            "task": task, "split": "test", "program": program, "runtime": runtime, "questions": QUESTIONS,
            "chains": CHAINS, "seed": seed, "parameters": {},
        }  # fmt: skip
        return Eval(**settings | changes)

    say = partial((errors if as_json else console).print, highlight=False)
    say("starting two SGLang runtimes")
    with (
        terminate_on_sigterm(),
        nullcontext() if as_json else watching() as waiting,
        serve(pocket_specs(task.name), out / "logs", progress=waiting) as (draft, target),
    ):
        say(f"draft at {draft.url}, target at {target.url}")
        with Backend.connect(draft.url, target.url) as pair:
            with progress("calibrate", as_json) as shown:
                collected = plan("a1", None, split="calibration", questions=CALIBRATION_QUESTIONS, alpha=ALPHA)
                card, _ = calibrate(collected, pair, out / "calibration", shown)
            card.save(out / "calibration" / "card.json")
            runs: dict[str, tuple[Eval, Any]] = {
                "draft": (plan("direct", "draft"), pair.alone("draft")),
                "target": (plan("direct", "target"), pair.alone("target")),
                "a1": (plan("a1", None, alpha=ALPHA, card=card), pair),
            }
            summaries = {}
            for name, (what, backend) in runs.items():
                pair.flush_cache()  # nobody profits from what another computed
                with progress(name, as_json) as shown:
                    _, summaries[name] = evaluate(what, backend, out / name, shown)
    if as_json:
        common.as_json({"summaries": summaries, "runs": str(out)})
        for summary in summaries.values():
            common.report_losses(summary, as_json)
        return
    console.print()
    common.print_summaries(
        {"draft only": summaries["draft"], "target only": summaries["target"], "A1": summaries["a1"]}
    )
    console.print(
        f"\n{QUESTIONS} test questions x {CHAINS} chains, temperature {task.temperature}; the gate started from "
        f"{len(card.scores):,} scores of {len(card.questions)} other questions. Runs: {out}/. "
        f"Everything took {time.monotonic() - started:.0f} s.",
        highlight=False,
    )
    seconds = {name: summary["wall_s"] for name, summary in summaries.items()}
    console.print(
        f"A1 took {seconds['a1']:.1f} s, the target alone {seconds['target']:.1f} s for the same questions before it: "
        f"{seconds['target'] / seconds['a1']:.2f} times as fast, in this one run.",
        highlight=False,
    )
    for summary in summaries.values():
        common.report_losses(summary)
