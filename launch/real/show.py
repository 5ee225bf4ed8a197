"""A1 on the pair, and what its scores are worth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from a1_sgl.engine import SGLang, wait
from a1_sgl.evals.runner import Eval, evaluate
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.real import GEMMA, SMOLLM2, agreement, path, real_specs
from a1_sgl.launch.real.agreement import Judged, Listening, judge, texts
from a1_sgl.launch.runtimes import serve
from a1_sgl.session import Backend, Roles

PARAMETERS = {"turns": 5, "draft_tokens": 48, "target_tokens": 48}
ALPHA = 0.4


def measure(folder: Path, data: Path | None, questions: int, chains: int, out: Path) -> dict[str, Any]:
    """Runs A1 on `questions` questions and compares scores with transformers; what `show` prints.

    Args:
        folder: where the models are.
        data: folder with ``gsm8k.jsonl``; None asks questions of task ``stories``.
        out: for the run, in ``eval``, and the logs.

    Raises:
        ConfigError: the models are not prepared, or there is no such data.
        RuntimeFault: a runtime did not start.
    """
    specs = real_specs(folder)
    task = find_task("gsm8k", data) if data is not None else find_task("stories")
    plan = Eval(
        task=task, split="test", program="a1", runtime=None, chains=chains, questions=questions, alpha=ALPHA,
        family="instruct" if data is not None else None, parameters=PARAMETERS, sampling={"temperature": 0.6},
    )  # fmt: skip
    asked = plan.asked
    judged: dict[tuple[str, str], list[Judged]] = {}
    with serve(specs, out / "logs", timeout=600) as running:
        draft, target = (wait(SGLang.connect(one.url, one.name)) for one in running)
        listening = Listening(target)
        with Backend(Roles.pair(draft, listening)) as backend:
            run, summary = evaluate(plan, backend, out / "eval", overwrite=True)
            written = [
                tuple(chain.text[at : at + 60] for at in range(0, len(chain.text), 60)) for chain in run.finished
            ]
            judged["Gemma", "chains, in the run"] = listening.heard
            for name, engine in (("SmolLM2", draft), ("Gemma", target)):
                judged[name, "texts"] = [one for chunks in texts().values() for one in judge(engine, chunks)]
                judged[name, "chains, anew"] = [one for chunks in written for one in judge(engine, chunks)]
            said = [
                agreement.exact(one.codec, chunks)
                for one in (draft, target)
                for chunks in (*texts().values(), *written)
            ]
    rows = []
    for name, model in (("SmolLM2", SMOLLM2), ("Gemma", GEMMA)):
        reference = agreement.transformers(path(model, folder))
        for (whose, of), heard in judged.items():
            if whose == name and heard:
                rows.append({"model": name, "of": of, **asdict(agreement.agreement(heard, reference))})
    return {
        "run": {
            "task": task.name, "questions": len(asked), "chains": len(run.finished), "lost": summary["chains_lost"],
            "right": sum(chain.correct for chain in run.chains),
            "decisions": summary["take_over"]["decisions"], "take_overs": sum(one.take_overs for one in run.finished),
            "draft_tokens": summary["tokens"]["draft_decode"], "target_tokens": summary["tokens"]["target_decode"],
            "out": str(out / "eval"),
        },
        "agreement": rows, "texts": len(said), "exact": sum(said),
    }  # fmt: skip
