"""The report of runs: what `a1 report` writes."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from a1_sgl.arguments import StrPath, check_kind
from a1_sgl.arguments import path as as_path
from a1_sgl.errors import ConfigError
from a1_sgl.evals import comparison
from a1_sgl.evals.accounting import question_seconds
from a1_sgl.evals.browser import browsed
from a1_sgl.evals.metrics import missing, shown_bound, summarise
from a1_sgl.evals.page import COLOURS, Draw, labels, legend, look, save, sheet
from a1_sgl.records import RunFolder
from a1_sgl.types import Call, calls_of

Summaries = Mapping[str, Mapping[str, Any]]


def write(page: StrPath, runs: Mapping[str, RunFolder], title: str = "Runs") -> list[Path]:
    """Writes the page and its figures.

    Raises:
        ConfigError: a run has no finished chain, or the page cannot be written.
    """
    page = as_path(page, "the page")
    for name, folder in runs.items():
        check_kind(folder, RunFolder, f"run {name}", "RunFolder.read('runs/a1')")
        if not folder.chains:
            raise ConfigError(f"run {name} has no finished chain yet")
    paths = dict(zip(named := labelled(runs), runs, strict=True))
    runs = named
    summaries = {name: summarise(folder) for name, folder in runs.items()}
    sentences = [f"{name} is {s['certificate']['says']}." for name, s in summaries.items() if s["certificate"]]
    sentences += [
        f"{name} is {_many(missing(s), 'chain')} short of its end, and brief chains end first: its figures are not "
        "those that the whole run will have." for name, s in summaries.items() if missing(s)
    ]  # fmt: skip
    pairs: list[dict[str, Any]] = []
    try:
        pairs = comparison.compare(runs, summaries=summaries) if len(runs) > 1 else []
    except ConfigError as error:
        sentences.append(f"The runs are not compared: {_one_line(str(error))}.")
    figures: dict[str, Draw | dict[str, Draw]] = {
        "accuracy against cost": {cost: partial(_cost, points, cost) for cost, points in costs(summaries).items()},
        "latency": partial(_latency, runs),
        **({"take-over by turn": partial(_turns, summaries)} if any(map(_gated, summaries.values())) else {}),
        **{
            f"timeline {i}: {name}": partial(_timeline, name, folder)
            for i, (name, folder) in enumerate(runs.items(), 1)
        },
    }
    shown = browsed(runs)
    return save(
        page, title, _about(summaries), [_headline(summaries), _at_k(summaries), *_by_turn(summaries),
        *_audits(summaries)], figures, sentences=sentences,
        pairs=[comparison.sentence(pair) for pair in pairs], browser=shown.runs, embedded=shown.says, keys=shown.keys,
        authors=shown.authors, details=[
            {
                "title": f"{name}: configuration of {paths[name]}, fingerprint {folder.run['fingerprint']}",
                "text": json.dumps({k: folder.run[k] for k in ("configuration", "environment")}, indent=2),
            }
            for name, folder in runs.items()
        ],
    )  # fmt: skip


def labelled(runs: Mapping[str, RunFolder]) -> dict[str, RunFolder]:
    """The runs by what they are: program, alpha, gate and task; those that are alike, also by the names they had."""
    alike = Counter(label(folder.run["configuration"]) for folder in runs.values())

    def said(name: str, folder: RunFolder) -> str:
        short = label(configuration := folder.run["configuration"])
        return short if alike[short] == 1 else label(configuration, name)

    return {said(name, folder): folder for name, folder in runs.items()}


def label(configuration: Mapping[str, Any], *more: str) -> str:
    """What a run was, in a few words: ``a1 (alpha 0.25, balanced, stories)``."""
    runtime, gate, said = configuration["runtime"], configuration["gate"], []
    if runtime:
        said.append(f"{runtime} alone")
    if gate:
        audits, first = gate.get("audits"), gate.get("first")
        said.append(f"epsilon {audits['epsilon']:g}" if audits else f"alpha {gate['alpha']:g}")
        said += [gate["kind"]] if "kind" in gate else []
        said += [f"first stage {first['score']}"] if first else []
    program = str(configuration["program"]).rpartition("/")[2]
    return f"{program} ({', '.join([*said, str(configuration['task']), *more])})"


def _about(summaries: Summaries) -> str:
    """What was asked, of all the runs, and what the figures mean."""
    asked: defaultdict[str, list[str]] = defaultdict(list)
    for name, s in summaries.items():
        chains = f"{_many(s['questions'], 'question')}, {_many(s['chains_per_question'], 'chain')} each"
        asked[f"Task {s['task']}, split {s['split']}, {chains}"].append(name)
    parts = [f"{what}: {'; '.join(names)}" if len(asked) > 1 else what for what, names in asked.items()]
    return (
        f"{'. '.join(parts)}. [...]: 95% intervals, clustered by question. "
        "bound: how far a rate can be from alpha after its decisions, whatever the scores were, where the gate "
        "promises it. pass@k and maj@k: means over all subsets of k chains. decode, prefill: tokens. FLOPs: two for "
        "each parameter and token computed, attention left out."
    )


# --- tables ---------------------------------------------------------------------------------------------------


def _table(title: str, of: Mapping[str, Any], rows: Sequence[tuple[str, Callable[[Any], str]]]) -> dict[str, Any]:
    """A column for each of `of`, and the rows that say something of any."""
    cells = [[name, *(cell(one) for one in of.values())] for name, cell in rows]
    return {"title": title, "head": ["", *of], "rows": [row for row in cells if set(row[1:]) != {"-"}]}


def _headline(summaries: Summaries) -> dict[str, Any]:
    return _table("Accuracy and its cost", summaries, [
        ("accuracy", lambda s: _interval(s["accuracy"], "mean")),
        ("answer, by its vote", lambda s: _interval(s["answer_accuracy"], "mean")),
        ("alpha", lambda s: _share(s["take_over"]["nominal"])),
        ("taken over", lambda s: _interval(s["take_over"], "realised")),
        ("bound", lambda s: shown_bound(s["take_over"]["bound"])),
        ("draft decode", lambda s: _count(s["tokens"]["draft_decode"])),
        ("target decode", lambda s: _count(s["tokens"]["target_decode"])),
        ("target prefill", lambda s: _count(s["tokens"]["target_prefill"])),
        ("FLOPs", lambda s: "-" if s["flops"]["all"] is None else f"{s['flops']['all']:.2e}"),
        ("wall-clock", lambda s: f"{s['wall_s']:.1f} s"),
        ("a question, median", lambda s: _seconds(s["question_s"], "median")),
        ("a question, 95th percentile", lambda s: _seconds(s["question_s"], "p95")),
        ("perplexity under the target", lambda s: f"{p['median']:.3f}" if (p := s["perplexity"]) else "-"),
        ("energy", lambda s: "-" if s["energy_j"] is None else f"{s['energy_j'] / 3600:.2f} Wh"),
        ("chains", lambda s: f"{s['chains_completed']:,} of {s['questions'] * s['chains_per_question']:,}"),
        ("lost", lambda s: _count(s["chains_lost"])),
    ])  # fmt: skip


def _at_k(summaries: Summaries) -> dict[str, Any]:
    sizes = sorted({int(k) for s in summaries.values() for k in s["pass_at"]})
    rows = [
        (f"{what}@{k}", lambda s, what=what, k=k: _interval(s[f"{what}_at"].get(str(k), {"mean": None}), "mean"))
        for what in ("pass", "maj")
        for k in sizes
    ]
    return _table("pass@k and maj@k", summaries, rows)


def _by_turn(summaries: Summaries) -> list[dict[str, Any]]:
    gated = {name: {turn["turn"]: turn for turn in s["take_over"]["by_turn"]} for name, s in summaries.items()}
    gated = {name: turns for name, turns in gated.items() if turns}

    def cell(turns: Mapping[int, Any], turn: int) -> str:
        if (one := turns.get(turn)) is None:
            return "-"
        bound = "" if one["bound"] is None else f" {shown_bound(one['bound'])}"
        return f"{_interval(one, 'realised')}{bound} of\N{NO-BREAK SPACE}{one['decisions']:,}"

    turns = sorted({turn for one in gated.values() for turn in one})
    rows = [(str(turn), lambda one, turn=turn: cell(one, turn)) for turn in turns]
    title = "Take-over by turn: rate, interval, bound where there is one, and decisions"
    return [_table(title, gated, rows)] if gated else []


def _audits(summaries: Summaries) -> list[dict[str, Any]]:
    audited = {name: s["audits"] for name, s in summaries.items() if s["audits"] is not None}
    table = _table("Audits of accepted chunks", audited, [
        ("by", lambda a: str(a["by"])),
        ("rate", lambda a: _share(a["rate"])),
        ("audits", lambda a: _count(a["wrong"]["decisions"])),
        ("wrong", lambda a: _interval(a["wrong"], "realised")),
        ("epsilon", lambda a: _share(a["epsilon"])),
        ("false accepts a decision", lambda a: _share(a["false_accepts"]["estimate"])),
        ("at most", lambda a: _share(a["false_accepts"]["most"])),
    ])  # fmt: skip
    return [table] if audited else []


def _interval(of: Mapping[str, Any], key: str) -> str:
    if of[key] is None:
        return "-"
    return f"{100 * of[key]:.1f}% [{100 * of['low']:.1f}, {100 * of['high']:.1f}]"


def _one_line(text: str) -> str:
    return " ".join(re.sub(r"(?<!:)\n", "; ", text).split())


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _count(value: int) -> str:
    return f"{value:,}" if value else "-"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _seconds(of: Mapping[str, float] | None, key: str) -> str:
    return f"{of[key]:.1f} s" if of else "-"


# --- figures --------------------------------------------------------------------------------------------------


def _gated(summary: Mapping[str, Any]) -> bool:
    return bool(summary["take_over"]["decisions"])


Point = tuple[float, Mapping[str, float]]


def costs(summaries: Summaries) -> dict[str, dict[str, Point]]:
    """What a chain took in each run, by kinds of cost, and how accurate it was.

    Where the size of some model is not known there are no FLOPs, and all tokens, decoded and prefilled by any model,
    are the nearest to them.
    """
    sized = all(s["flops"]["all"] is not None for s in summaries.values())

    def tokens(s: Mapping[str, Any], *roles: str) -> float:
        kinds = ("_decode", "_prefill")
        counts: Mapping[str, int] = s["tokens"]
        return sum(n for key, n in counts.items() if key.endswith(kinds) and (not roles or key.startswith(roles)))

    kinds: dict[str, Callable[[Mapping[str, Any]], float]] = {
        "target tokens": lambda s: tokens(s, "target"),
        **({"FLOPs": lambda s: s["flops"]["all"]} if sized else {"all tokens": tokens}),
        "wall-clock": lambda s: s["wall_s"],
    }
    return {
        kind: {name: (cost(s) / s["chains_completed"], s["accuracy"]) for name, s in summaries.items()}
        for kind, cost in kinds.items()
    }


def front(points: Mapping[str, Point]) -> list[str]:
    """The runs on the Pareto front, cheapest first: any that is more accurate costs more."""
    found: list[str] = []
    best = -1.0
    for name, (_, accuracy) in sorted(points.items(), key=lambda one: (one[1][0], -one[1][1]["mean"])):
        if accuracy["mean"] > best:
            found.append(name)
            best = accuracy["mean"]
    return found


UNITS = {
    "target tokens": "target tokens a chain, decoded and prefilled",
    "FLOPs": "FLOPs a chain (estimate)",
    "all tokens": "tokens a chain, decoded and prefilled by any model",
    "wall-clock": "seconds of the run's wall-clock, over its chains",
}


def _cost(points: Mapping[str, Point], kind: str, narrow: bool) -> Figure:
    figure, (axes,) = sheet(narrow, 4.5)
    for i, (name, (x, mean)) in enumerate(points.items()):
        error = [[mean["mean"] - mean["low"]], [mean["high"] - mean["mean"]]]
        axes.errorbar([x], [mean["mean"]], yerr=error, linestyle="", capsize=3, label=name, **look(i))
    if len(points) > 1:
        line = [(cost, accuracy["mean"]) for cost, accuracy in (points[name] for name in front(points))]
        line.append((max(cost for cost, _ in points.values()), line[-1][1]))
        axes.step(
            *zip(*line, strict=True), where="post", color="black", linewidth=0.8, linestyle="--", label="Pareto front",
            zorder=0,
        )  # fmt: skip
    axes.set_xlim(left=-0.02 * axes.get_xlim()[1])  # a run at no cost is not cut in half
    labels(axes, narrow, UNITS[kind], "accuracy of a chain")
    legend(axes, narrow)
    return figure


def _latency(runs: Mapping[str, RunFolder], narrow: bool) -> Figure:
    figure, (axes,) = sheet(narrow, 4.5)
    for i, (name, folder) in enumerate(runs.items()):
        axes.ecdf(question_seconds(folder.finished, folder.run["sessions"]), color=look(i)["color"], label=name)
    labels(axes, narrow, "seconds from a question's first chain's begin to its last one's end", "share of questions")
    legend(axes, narrow)
    return figure


def _turns(summaries: Summaries, narrow: bool) -> Figure:
    figure, (axes,) = sheet(narrow, 4.5)
    gated = {name: s["take_over"] for name, s in summaries.items() if _gated(s)}
    for i, (name, over) in enumerate(gated.items()):
        turns = [turn for turn in over["by_turn"] if turn["decisions"]]
        y = np.array([turn["realised"] for turn in turns])
        errors = [y - [turn["low"] for turn in turns], [turn["high"] for turn in turns] - y]
        x = [turn["turn"] + 0.12 * (i - (len(gated) - 1) / 2) for turn in turns]
        axes.errorbar(x, y, yerr=errors, linestyle="", markersize=4, linewidth=0.9, label=name, **look(i))
        if over["nominal"] is not None:
            axes.axhline(over["nominal"], color=look(i)["color"], linewidth=0.8, linestyle="--")
    axes.set_ylim(-0.02, 1.02)
    labels(axes, narrow, "turn", "take-over rate")
    legend(axes, narrow, "dashed: alpha")
    return figure


def _timeline(name: str, folder: RunFolder, narrow: bool) -> Figure:
    """Requests in flight for each role, by kind, over the last session in which there were any."""
    figure, (axes,) = sheet(narrow, 2.8)
    groups: defaultdict[tuple[str, str], list[Call]] = defaultdict(list)
    sessions, calls = folder.run["sessions"], calls_of(folder.events)
    latest = max((call.started for call in calls), default=sessions[-1])
    begin = max((session for session in sessions if session <= latest), default=sessions[0])
    for call in calls:
        if call.started >= begin:
            groups[call.role, call.kind].append(call)
    for i, ((role, kind), calls) in enumerate(sorted(groups.items())):
        steps = sorted([(call.started - begin, 1) for call in calls] + [(call.ended - begin, -1) for call in calls])
        x, y = [time for time, _ in steps], list(itertools.accumulate(by for _, by in steps))
        axes.step(x, y, where="post", linewidth=0.9, color=COLOURS[i % len(COLOURS)], label=f"{role} {kind}")
    labels(axes, narrow, "seconds", "requests in flight")
    legend(
        axes, narrow, name if len(sessions) == 1 else f"{name}, session {sessions.index(begin) + 1} of {len(sessions)}"
    )
    return figure
