"""Results as pictures, each for a wide page and for a phone's."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from a1_sgl.conformal import Rates

mpl.use("Agg")
COLOURS = ("#0b6e99", "#c2571a", "#4a7c3a", "#7a4b94", "#8c6d1f", "#555555", "#b03060", "#2f8f83")
MARKERS = "osD^vP<>"

Draw = Callable[[bool], Figure]
"""Draws a figure, in the shape that suits a wide page or, told so, a narrow one."""


def look(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th thing in a figure."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i // len(COLOURS) % len(MARKERS)]}


def sheet(narrow: bool, height: float, rows: int = 1, columns: int = 1, **shape: Any) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row by row; on a narrow page below each other. `height`: of a wide one, in inches."""
    if narrow:
        rows, columns, height = rows * columns, 1, height * (0.8 if columns == 1 else 1.6)
    figure = Figure(figsize=(3.6 if narrow else 9, height), layout="constrained")
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False, **shape).ravel())
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, panels


def labels(axes: Axes, narrow: bool, x: str, y: str = "") -> None:
    """Names of the axes, in lines that fit."""
    axes.set_xlabel(_lines(x, narrow), fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def legend(axes: Axes, narrow: bool, title: str = "") -> None:
    """A legend above the axes, where it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return
    names = [_lines(name, narrow) for name in names]
    columns = max(1, min(len(names), (50 if narrow else 125) // (6 + max(map(len, names)))))
    axes.legend(
        handles, names, loc="lower left", bbox_to_anchor=(0, 1.02), borderaxespad=0, ncols=columns, fontsize=8,
        frameon=False, title=_lines(title, narrow) or None, title_fontsize=8, alignment="left",
    )  # fmt: skip


def _lines(text: str, narrow: bool) -> str:
    """Two lines at most, in which a dollar begins no formula."""
    return "\n".join(textwrap.wrap(text, 44 if narrow else 120, max_lines=2, placeholder=" ...")).replace("$", r"\$")


@dataclass(frozen=True)
class Shown:
    """One gate's replay: its name, its rates in seed 0, and its averages over seeds."""

    name: str
    rates: Rates
    average: Mapping[str, Any]


def rates(shown: list[Shown], alpha: float, minimum: int, martingales: Mapping[str, list[float]]) -> Draw:
    """Realised rates by turn and by question with 95% intervals, and the martingales."""

    def draw(narrow: bool) -> Figure:
        figure, (by_turn, by_question, wealth) = sheet(narrow, 11, 3, height_ratios=(3, 3, 2))
        for i, one in enumerate(shown):
            shift = 0.16 * (i - (len(shown) - 1) / 2)
            turns = sorted(one.rates.by("turn").items(), key=lambda item: int(str(item[0])))
            _bars(by_turn, [int(str(turn)) + shift for turn, _ in turns], [rate for _, rate in turns], one.name, i)
            questions = sorted(one.rates.by("question").values(), key=lambda rate: rate.hits / rate.n)
            _bars(by_question, [j + shift for j in range(len(questions))], questions, one.name, i)
        for axes, what in (
            (by_turn, f"turn (deviations count turns of at least {minimum} chunks)"),
            (by_question, "question, in order of each gate's realised rate"),
        ):
            axes.axhline(alpha, color="black", linewidth=0.8, linestyle="--", label=f"nominal, alpha = {alpha:g}")
            axes.set_ylim(0, 1)
            labels(axes, narrow, what, "take-over rate")
            legend(axes, narrow)
        for i, (name, values) in enumerate(martingales.items()):
            x = [j / max(1, len(values) - 1) for j in range(len(values))]
            wealth.plot(x, values, label=name, color=COLOURS[i % len(COLOURS)])
        wealth.axhline(4.605, color="black", linewidth=0.8, linestyle="--", label="threshold 100")
        wealth.set_yscale("symlog", linthresh=10)
        wealth.yaxis.set_major_locator(MaxNLocator(5))
        wealth.yaxis.set_major_formatter("{x:g}")
        labels(wealth, narrow, "share of the record", "log wealth")
        legend(wealth, narrow)
        return figure

    return draw


def swept(results: Mapping[float, Mapping[str, Mapping[str, Any]]]) -> Draw:
    """Realised against nominal rate, deviations and selectivity, over alpha."""
    alphas = sorted(results)
    names = list(results[alphas[0]])
    titles = {
        "overall": "realised rate",
        "mean_turn_deviation": "mean deviation by turn",
        "mean_question_deviation": "mean deviation by question",
        "selectivity": "selectivity",
    }

    def draw(narrow: bool) -> Figure:
        figure, panels = sheet(narrow, 7, 2, 2)
        for axes, (key, title) in zip(panels, titles.items(), strict=True):
            for i, name in enumerate(names):
                values = [results[alpha][name][key] for alpha in alphas]
                axes.plot(alphas, values, markersize=4, label=name, **look(i))
            if key == "overall":
                axes.plot(alphas, alphas, color="black", linewidth=0.8, linestyle="--", label="nominal")
                legend(axes, narrow)
            labels(axes, narrow, "alpha", title)
        return figure

    return draw


def _bars(axes: Axes, x: list[float], all_: list[Any], name: str, i: int) -> None:
    y = [rate.hits / rate.n for rate in all_]
    bounds = [rate.interval() for rate in all_]
    errors = [[v - low for v, (low, _) in zip(y, bounds, strict=True)]]
    errors.append([high - v for v, (_, high) in zip(y, bounds, strict=True)])
    axes.errorbar(x, y, yerr=errors, linestyle="", markersize=3, linewidth=0.8, label=name, **look(i))
