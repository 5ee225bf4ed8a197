"""Results as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from a1_sgl.conformal import Rates

mpl.use("Agg")
COLOURS = ("#0b6e99", "#c2571a", "#4a7c3a", "#7a4b94", "#8c6d1f", "#555555", "#b03060", "#2f8f83")


@dataclass(frozen=True)
class Shown:
    """One gate's replay: its name, its rates in seed 0, and its averages over seeds."""

    name: str
    rates: Rates
    average: Mapping[str, Any]


def rates(shown: list[Shown], alpha: float, minimum: int, martingales: Mapping[str, list[float]]) -> Figure:
    """Realised rates by turn and by question with 95% intervals, and the martingales."""
    figure = Figure(figsize=(11, 11), layout="constrained")
    by_turn, by_question, wealth = figure.subplots(3, 1, height_ratios=(3, 3, 2))
    for i, one in enumerate(shown):
        shift = 0.16 * (i - (len(shown) - 1) / 2)
        turns = sorted(one.rates.by("turn").items(), key=lambda item: int(str(item[0])))
        _bars(by_turn, [int(str(turn)) + shift for turn, _ in turns], [rate for _, rate in turns], one.name, i)
        questions = sorted(one.rates.by("question").values(), key=lambda rate: rate.hits / rate.n)
        _bars(by_question, [j + shift for j in range(len(questions))], questions, one.name, i)
    for axes in (by_turn, by_question):
        axes.axhline(alpha, color="black", linewidth=0.8, linestyle="--", label=f"nominal, alpha = {alpha:g}")
        axes.set_ylabel("take-over rate")
        axes.set_ylim(0, 1)
        axes.legend(fontsize=8, ncols=min(4, len(shown) + 1), loc="upper left")
    by_turn.set_xlabel(f"turn (deviations count turns of at least {minimum} chunks)")
    by_question.set_xlabel("question, in order of each gate's realised rate")
    for i, (name, values) in enumerate(martingales.items()):
        wealth.plot([j / max(1, len(values) - 1) for j in range(len(values))], values, label=name, color=COLOURS[i])
    wealth.axhline(4.605, color="black", linewidth=0.8, linestyle="--", label="threshold 100")
    wealth.set_yscale("symlog", linthresh=10)
    wealth.set_ylabel("log wealth")
    wealth.set_xlabel("share of the record")
    wealth.legend(fontsize=8, loc="upper left")
    for axes in (by_turn, by_question, wealth):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def swept(results: Mapping[float, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Realised against nominal rate, deviations and selectivity, over alpha."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    alphas = sorted(results)
    names = list(results[alphas[0]])
    titles = {
        "overall": "realised rate",
        "mean_turn_deviation": "mean deviation by turn",
        "mean_question_deviation": "mean deviation by question",
        "selectivity": "selectivity",
    }
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for i, name in enumerate(names):
            values = [results[alpha][name][key] for alpha in alphas]
            axes.plot(alphas, values, marker="o", label=name, color=COLOURS[i % len(COLOURS)])
        if key == "overall":
            axes.plot(alphas, alphas, color="black", linewidth=0.8, linestyle="--", label="nominal")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("alpha")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8)
    return figure


def _bars(axes: Axes, x: list[float], all_: list[Any], name: str, i: int) -> None:
    y = [rate.hits / rate.n for rate in all_]
    bounds = [rate.interval() for rate in all_]
    errors = [[v - low for v, (low, _) in zip(y, bounds, strict=True)]]
    errors.append([high - v for v, (_, high) in zip(y, bounds, strict=True)])
    axes.errorbar(x, y, yerr=errors, fmt="o", markersize=3, linewidth=0.8, label=name, color=COLOURS[i % len(COLOURS)])
