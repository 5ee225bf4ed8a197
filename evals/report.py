"""The report of runs: what `a1 report` writes."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from a1_sgl.errors import ConfigError
from a1_sgl.evals import comparison
from a1_sgl.evals.accounting import question_seconds
from a1_sgl.evals.metrics import shown_bound, summarise
from a1_sgl.evals.page import COLOURS, save
from a1_sgl.records import RunFolder
from a1_sgl.types import Call, ChunkEvent, DropEvent, VerdictEvent, calls_of

BROWSED = 50
"""Most questions of a run that go into the page; the others stay in its folder."""


def write(page: Path, runs: Mapping[str, RunFolder], title: str = "Runs") -> list[Path]:
    """Writes the page and its figures.

    Raises:
        ConfigError: a run has no finished chain, or the page cannot be written.
    """
    for name, folder in runs.items():
        if not folder.chains:
            raise ConfigError(f"run {name} has no finished chain yet")
    summaries = {name: summarise(folder) for name, folder in runs.items()}
    try:
        sentences = [comparison.sentence(row) for row in comparison.compare(runs)] if len(runs) > 1 else []
    except ConfigError as error:
        sentences = [f"The runs are not compared: {' '.join(str(error).split())}."]
    sentences += [f"{name} is {s['certificate']['says']}." for name, s in summaries.items() if s["certificate"]]
    first = next(iter(summaries.values()))
    tasks = sorted({f"task {s['task']}, split {s['split']}" for s in summaries.values()})
    about = (
        f"{', '.join(tasks)}; {first['questions']} questions, {first['chains_per_question']} chains each. [...]: 95% "
        "intervals, clustered "
        "by question. bound: how far a rate can be from alpha after its decisions, whatever the scores were, where the "
        "gate promises it. pass@k and maj@k: means over all subsets of k chains. decode, prefill: tokens. "
        "FLOPs: two for each parameter and token computed, attention left out."
    )
    figures = {
        "accuracy-against-cost": _cost(summaries),
        "latency": _latency(runs),
        **({"take-over-by-turn": _turns(summaries)} if any(map(_gated, summaries.values())) else {}),
        **{f"timeline-{i}-{_plain(name)}": _timeline(name, folder) for i, (name, folder) in enumerate(runs.items())},
    }
    return save(
        page, title, about, [_headline(summaries), _at_k(summaries), _by_turn(summaries), *_audits(summaries)], figures,
        sentences=sentences, browser=[_browsed(name, folder) for name, folder in runs.items()],
        details=[
            {
                "title": f"{name}: configuration, fingerprint {folder.run['fingerprint']}",
                "text": json.dumps({k: folder.run[k] for k in ("configuration", "environment")}, indent=2),
            }
            for name, folder in runs.items()
        ],
    )  # fmt: skip


# --- tables ---------------------------------------------------------------------------------------------------


def _headline(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    head = [
        "run", "accuracy", "answer", "alpha", "taken over", "bound", "draft decode", "target decode", "target prefill",
        "FLOPs", "wall-clock", "question median, p95", "perplexity", "energy", "chains",
    ]  # fmt: skip
    rows = []
    for name, s in summaries.items():
        tokens, took, over, perplexity = s["tokens"], s["question_s"], s["take_over"], s["perplexity"]
        rows.append([
            name, _interval(s["accuracy"], "mean"), _interval(s["answer_accuracy"], "mean"),
            _share(over["nominal"]), _interval(over, "realised"), shown_bound(over["bound"]),
            *(f"{tokens[key]:,}" for key in ("draft_decode", "target_decode", "target_prefill")),
            "-" if s["flops"]["all"] is None else f"{s['flops']['all']:.2e}", f"{s['wall_s']:.1f} s",
            f"{took['median']:.1f} s, {took['p95']:.1f} s" if took else "-",
            f"{perplexity['median']:.3f}" if perplexity else "-",
            "-" if s["energy_j"] is None else f"{s['energy_j'] / 3600:.2f} Wh",
            f"{s['chains_completed']:,} of {s['questions'] * s['chains_per_question']:,}",
        ])  # fmt: skip
    return {"title": "Accuracy and its cost", "head": head, "rows": rows}


def _at_k(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    sizes = sorted({int(k) for s in summaries.values() for k in s["pass_at"]})
    rows = [
        [f"{name}, {what}@k", *(_interval(s[f"{what}_at"].get(str(k), {"mean": None}), "mean") for k in sizes)]
        for name, s in summaries.items()
        for what in ("pass", "maj")
    ]
    return {"title": "pass@k and maj@k", "head": ["run", *(f"k = {k}" for k in sizes)], "rows": rows}


def _by_turn(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rows = [
        [
            name,
            turn["turn"],
            _interval(turn, "realised"),
            shown_bound(turn["bound"]),
            f"{turn['decisions']:,}",
            _share(s["take_over"]["nominal"]),
        ]
        for name, s in summaries.items()
        for turn in s["take_over"]["by_turn"]
    ]
    head = ["run", "turn", "taken over", "bound", "decisions", "alpha"]
    return {"title": "Take-over by turn", "head": head, "rows": rows}


def _audits(summaries: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = [
        [
            name, a["by"], _share(a["rate"]), f"{a['wrong']['decisions']:,}", _interval(a["wrong"], "realised"),
            _share(a["epsilon"]), _share(a["false_accepts"]["estimate"]), _share(a["false_accepts"]["most"]),
        ]
        for name, s in summaries.items() if (a := s["audits"]) is not None
    ]  # fmt: skip
    head = ["run", "by", "rate", "audits", "wrong", "epsilon", "false accepts a decision", "at most"]
    return [{"title": "Audits of accepted chunks", "head": head, "rows": rows}] if rows else []


def _interval(of: Mapping[str, Any], key: str) -> str:
    if of[key] is None:
        return "-"
    return f"{100 * of[key]:.1f}% [{100 * of['low']:.1f}, {100 * of['high']:.1f}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


# --- figures --------------------------------------------------------------------------------------------------


def _gated(summary: Mapping[str, Any]) -> bool:
    return bool(summary["take_over"]["decisions"])


def _axes(x: str, y: str, height: float = 4.5) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _cost(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    sized = all(s["flops"]["all"] is not None for s in summaries.values())
    figure, axes = _axes("FLOPs a question (estimate)" if sized else "target tokens a question", "accuracy of a chain")
    for i, (name, s) in enumerate(summaries.items()):
        tokens = s["tokens"]["target_decode"] + s["tokens"]["target_prefill"]
        x, mean = (s["flops"]["all"] if sized else tokens) / s["questions"], s["accuracy"]
        error = [[mean["mean"] - mean["low"]], [mean["high"] - mean["mean"]]]
        axes.errorbar([x], [mean["mean"]], yerr=error, fmt="o", capsize=3, color=_colour(i), label=name)
    axes.legend(fontsize=9)
    return figure


def _latency(runs: Mapping[str, RunFolder]) -> Figure:
    figure, axes = _axes("seconds from a question's first chain's begin to its last one's end", "share of questions")
    for i, (name, folder) in enumerate(runs.items()):
        axes.ecdf(question_seconds(folder.finished, folder.run["sessions"]), color=_colour(i), label=name)
    axes.legend(fontsize=9)
    return figure


def _turns(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure, axes = _axes("turn", "take-over rate")
    gated = {name: s["take_over"] for name, s in summaries.items() if _gated(s)}
    for i, (name, over) in enumerate(gated.items()):
        turns = [turn for turn in over["by_turn"] if turn["decisions"]]
        y = np.array([turn["realised"] for turn in turns])
        errors = [y - [turn["low"] for turn in turns], [turn["high"] for turn in turns] - y]
        x = [turn["turn"] + 0.12 * (i - (len(gated) - 1) / 2) for turn in turns]
        axes.errorbar(x, y, yerr=errors, fmt="o", markersize=4, linewidth=0.9, color=_colour(i), label=name)
        if over["nominal"] is not None:
            axes.axhline(over["nominal"], color=_colour(i), linewidth=0.8, linestyle="--")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=9, title="dashed: alpha", title_fontsize=9)
    return figure


def _timeline(name: str, folder: RunFolder) -> Figure:
    """Requests in flight for each role, by kind, over the run's last session."""
    figure, axes = _axes("seconds", "requests in flight", 2.6)
    groups: defaultdict[tuple[str, str], list[Call]] = defaultdict(list)
    begin = folder.run["sessions"][-1]
    for call in calls_of(folder.events):
        if call.started >= begin:
            groups[call.role, call.kind].append(call)
    for i, ((role, kind), calls) in enumerate(sorted(groups.items())):
        steps = sorted([(call.started - begin, 1) for call in calls] + [(call.ended - begin, -1) for call in calls])
        x, y = [time for time, _ in steps], list(itertools.accumulate(by for _, by in steps))
        axes.step(x, y, where="post", linewidth=0.9, color=_colour(i), label=f"{role} {kind}")
    axes.set_title(name, fontsize=10)
    if groups:
        axes.legend(fontsize=8, ncols=3)
    return figure


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


# --- chain browser --------------------------------------------------------------------------------------------


def _browsed(name: str, folder: RunFolder) -> dict[str, Any]:
    """What the page's script shows of a run."""
    chunks = _chunks(folder)
    groups: defaultdict[str, list[Any]] = defaultdict(list)
    for chain in sorted(folder.chains, key=lambda one: one.sample):
        groups[chain.question].append({
            "sample": chain.sample, "answer": chain.answer, "correct": chain.correct, "ending": chain.ending,
            "note": chain.note, "rating": chain.rating, "seconds": chain.ended - chain.started,
            "chunks": chunks[chain.question, chain.sample],
        })  # fmt: skip
    asked = folder.questions()
    gold = {chain.question: chain.gold for chain in folder.chains}
    questions = [
        {
            "id": question,
            "text": "\n".join(str(m["content"]) for m in asked[question].messages) if question in asked else question,
            "title": str(asked[question].messages[-1]["content"])[:60] if question in asked else "",
            "gold": gold[question],
            "chains": chains,
        }
        for question, chains in list(groups.items())[:BROWSED]
    ]
    return {"name": name, "questions": questions, "left_out": max(0, len(groups) - BROWSED)}


def _chunks(folder: RunFolder) -> defaultdict[tuple[str, int], list[dict[str, Any]]]:
    """Every chain's chunks in order, each with what was decided on it, and those that were taken back out marked."""
    found: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for event in folder.events:
        if isinstance(event, ChunkEvent):
            found[event.question, event.sample].append({
                "turn": event.turn, "author": event.author, "text": event.text, "tokens": event.tokens,
                "score": None, "p": None, "over": False, "dropped": None,
            })  # fmt: skip
        elif isinstance(event, VerdictEvent) and (chunks := found[event.question, event.sample]):
            score = None if event.unseen else event.score
            chunks[-1] |= {"score": score, "p": event.p_value, "over": event.take_over}
        elif isinstance(event, DropEvent):
            left = event.tokens
            for chunk in reversed(found[event.question, event.sample]):
                if left <= 0:
                    break
                if chunk["dropped"] is None and chunk["author"] == event.author:
                    chunk["dropped"] = event.reason
                    left -= chunk["tokens"]
    return found
