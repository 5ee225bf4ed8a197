"""`a1 replay`: gates over recorded chains, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from a1_sgl.cli import common, complete, console
from a1_sgl.conformal import BUDGETS, FROZEN, GATES
from a1_sgl.errors import ConfigError

if TYPE_CHECKING:
    from a1_sgl.evals.page import Shown
    from a1_sgl.evals.replay import Replay


SHOWN = "95% intervals, clustered by question (of one: by chain); ±: bound"


def replay(
    context: typer.Context,
    traces: Annotated[
        list[Path], typer.Argument(metavar="TRACE...", help="Run folders, events.jsonl files, or files of chains.")
    ],
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="Gate or rule, repeatable; see below. [default: the run's own, balanced, authors, random, oracle]",
            autocompletion=complete.replayed,
        ),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Nominal take-over rate. [default: the run's own, else 0.4]")
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="alpha=FIRST:LAST:STEP", help="Several alphas instead of one.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Orders of arrival to average over.")] = 20,
    interleave: Annotated[int, typer.Option(help="Questions in flight; 1 is question by question.")] = 8,
    order: Annotated[str, typer.Option(help="random: any chain may be next; turns: a question's turns in step.")] = (
        "random"
    ),
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npy", help="Fixed scores for `authors` and `frozen`. [default: as recorded]"),
    ] = None,
    minimum: Annotated[int, typer.Option(help="Fewest chunks of a turn that counts in deviations by turn.")] = 75,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.html and its pictures.")] = None,
    as_json: common.Json = False,
) -> None:
    """Run gates over recorded chains and compare nominal with realised take-over rates.

    Gates: see `a1 gates`. Rules: authors (rank among a fixed array of turn-0 scores), synchronous (a question's worst
    chunks of each turn, with a barrier), oracle (the same in hindsight, draws counted apart).
    """
    from a1_sgl.evals import replay as core

    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, not {seeds}")
    if minimum < 1:
        raise ConfigError(f"--minimum must be at least 1 chunk, not {minimum}")
    if sweep is not None:
        common.idle(context, ("alpha",), "sweep", "beside --sweep, which says the alphas; leave --sweep out")
    own_gate, own_alpha = _own(traces)
    if (alpha is not None and own_gate in BUDGETS) or (calibration is None and own_gate == FROZEN):
        own_gate = None  # a budget has an alpha of its own and no other, and the card's scores are not in the run
    alpha = alpha if alpha is not None else own_alpha or 0.4
    alphas = _alphas(sweep) if sweep else [alpha]
    for one in alphas:
        if not 0 < one < 1:
            raise ConfigError(f"alpha is the nominal take-over rate and must lie strictly between 0 and 1, not {one:g}")
    names = list(dict.fromkeys(gate or ([own_gate] if own_gate else []) + list(core.DEFAULTS)))
    if not {core.AUTHORS, FROZEN} & set(names):
        common.idle(context, ("calibration",), "gate", f"without --gate {core.AUTHORS} or {FROZEN}; name one of them")
    fixed = core.calibration(calibration) if calibration else None
    if out is not None:
        from a1_sgl.evals import page

        try:  # now rather than after the work
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {out} cannot be written: {error}") from error
    trace = core.read(traces)
    plan = core.Replay(trace, interleave, order, fixed, minimum)
    results: dict[float, dict[str, Any]] = {}
    first: dict[str, Any] = {}
    for one in alphas:
        results[one] = {}
        for name in names:
            results[one][name], first[name] = plan.average(name, one, seeds)
    if as_json:
        whole = {f"{one:g}": found for one, found in results.items()} if sweep else results[alpha]
        typer.echo(json.dumps(whole))
        return
    about = (
        f"{trace.chunks:,} chunks of {len(trace.chains):,} chains, "
        f"{len({chain.question for chain in trace.chains})} questions; {seeds} orders of arrival ({order}), "
        f"{interleave} questions in flight."
        + (f" {trace.unscored} turns without a score are left out." if trace.unscored else "")
    )
    tables = [_swept(results) if sweep else _summary(results[alpha], alpha)]
    if not sweep:
        from a1_sgl.evals.page import Shown

        shown = [Shown(name, first[name], results[alpha][name]) for name in names]
        tables += [_by_turn(shown, alpha), _questions(shown, alpha), _martingale(plan)]
    console.print(about, markup=False, highlight=False)
    for table in tables:
        console.print(f"\n{table['title']}", style="bold", markup=False, highlight=False)
        for part in _parts(table, console.width):
            console.print(_rich(part))
    note = "\n".join([*(f"{name}: {core.RULES[name]}." for name in names if name in core.RULES), core.UNKNOWN])
    console.print(f"\n{note}", style="dim", markup=False, highlight=False)
    if out is not None:
        from a1_sgl.evals import page

        figures = (
            {"sweep": page.swept(results)}
            if sweep
            else {"rates": page.rates(shown, alpha, minimum, _martingales(plan))}
        )
        if not sweep:
            tables.append(_by_question(shown, alpha))
        written = page.save(out / "report.html", "Replay", about, tables, figures, note)
        console.print("\nwritten: " + ", ".join(map(str, written)), markup=False, highlight=False, soft_wrap=True)


def _own(traces: list[Path]) -> tuple[str | None, float | None]:
    """The gate and the alpha of the runs, where these are runs and agree on them; a gate only if it can be replayed."""
    from a1_sgl.records import head

    runs = [head(trace)["configuration"] for trace in traces if (trace / "run.json").is_file()]
    gates = [run["gate"] or {} for run in runs] if len(runs) == len(traces) else []
    kinds, alphas = {gate.get("kind") for gate in gates}, {gate.get("alpha") for gate in gates}
    kind, alpha = (next(iter(one)) if len(one) == 1 else None for one in (kinds, alphas))
    return kind if kind in (*GATES, *BUDGETS) else None, alpha


def _alphas(text: str) -> list[float]:
    name, equals, span = text.partition("=")
    if name != "alpha" or not equals:
        raise ConfigError(f"--sweep takes alpha=FIRST:LAST:STEP, not {text!r}")
    return common.span(span)


def _percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{share:.{digits}%}"


def _summary(gates: dict[str, Any], alpha: float) -> dict[str, Any]:
    from a1_sgl.evals.metrics import shown_bound

    rows = [
        [
            name, _percent(m["overall"]), shown_bound(m["bound"]), _percent(m["mean_turn_deviation"]),
            _percent(m["max_turn_deviation"]), _percent(m["mean_question_deviation"]), _percent(m["selectivity"]),
        ]
        for name, m in gates.items()
    ]  # fmt: skip
    head = ["gate", "rate", "bound", "by turn", "worst turn", "by question", "selectivity"]
    return {"title": f"Rate at alpha {alpha:g}, its bound, and mean deviations from alpha", "head": head, "rows": rows}


def _swept(results: dict[float, dict[str, Any]]) -> dict[str, Any]:
    from a1_sgl.evals.metrics import shown_bound

    rows = [
        [
            name, f"{alpha:g}", _percent(m["overall"]), shown_bound(m["bound"]), _percent(m["mean_turn_deviation"]),
            _percent(m["mean_question_deviation"]), _percent(m["selectivity"]),
        ]
        for alpha, gates in results.items() for name, m in gates.items()
    ]  # fmt: skip
    head = ["gate", "alpha", "rate", "bound", "by turn", "by question", "selectivity"]
    return {"title": "Rate, its bound, and mean deviations from alpha", "head": head, "rows": rows}


def _by_turn(shown: list[Shown], alpha: float) -> dict[str, Any]:
    turns = sorted({turn for one in shown for turn in one.rates.by("turn")}, key=lambda turn: int(str(turn)))
    rows = []
    for turn in turns:
        rates = [one.rates.by("turn").get(turn) for one in shown]
        rows.append([str(turn), str(max(rate.n for rate in rates if rate)), *map(_interval, rates)])
    head = ["turn", "chunks", *(one.name for one in shown)]
    title = f"Rate by turn at alpha {alpha:g}, seed 0; {SHOWN}"
    return {"title": title, "head": head, "rows": rows, "keys": 2}


def _questions(shown: list[Shown], alpha: float) -> dict[str, Any]:
    """Some questions of each gate's own order, from the lowest rate to the highest."""
    ranked = [sorted(one.rates.by("question").values(), key=lambda r: r.hits / r.n) for one in shown]
    rows = [
        [name, *(_interval(rates[round(share * (len(rates) - 1))]) for rates in ranked)]
        for name, share in (("lowest", 0.0), ("10%", 0.1), ("median", 0.5), ("90%", 0.9), ("highest", 1.0))
    ]
    title = f"Rate by question at alpha {alpha:g}, each gate's own order, seed 0; {SHOWN}"
    return {"title": title, "head": ["question", *(one.name for one in shown)], "rows": rows}


def _by_question(shown: list[Shown], alpha: float) -> dict[str, Any]:
    rates = [one.rates.by("question") for one in shown]
    rows = [
        [str(question), str(rates[0][question].n), *(_interval(rate.get(question)) for rate in rates)]
        for question in sorted(rates[0], key=lambda q: (len(str(q)), str(q)))
    ]
    head = ["question", "chunks", *(one.name for one in shown)]
    return {"title": f"Rate by question at alpha {alpha:g}, seed 0; {SHOWN}", "head": head, "rows": rows}


def _interval(rate: Any) -> str:
    from a1_sgl.evals.metrics import shown_bound

    if rate is None:
        return "-"
    low, high = rate.interval()
    bound = "" if rate.bound is None else f" {shown_bound(rate.bound)}"
    return f"{100 * rate.realised:.1f}% [{100 * low:.1f}, {100 * high:.1f}]{bound}"


def _martingales(plan: Replay) -> dict[str, list[float]]:
    return {"questions": plan.martingale(0)}


def _martingale(plan: Replay) -> dict[str, Any]:
    rows = []
    for name, wealth in _martingales(plan).items():
        peak = max(wealth, default=0.0)
        rows.append([name, str(len(wealth)), f"{peak:.1f}", "yes" if peak >= 4.605 else "no"])
    return {
        "title": "Drift: highest log wealth of the alarm, seed 0",
        "head": ["watched", "how many", "log wealth", "passes 100"],
        "rows": rows,
    }


def _parts(content: dict[str, Any], width: int) -> Iterator[dict[str, Any]]:
    """The table itself if it is not wider; else several, each with its first columns and as many others as fit."""
    head, rows, keys = content["head"], content["rows"], content.get("keys", 1)
    sizes = [max(map(len, column)) + 2 for column in zip(head, *rows, strict=True)]
    room, parts = width + 2 - sum(sizes[:keys]), [[keys]]
    for i in range(keys + 1, len(head)):
        if sum(sizes[column] for column in (*parts[-1], i)) > room:
            parts.append([])
        parts[-1].append(i)
    for part in parts:
        columns = [*range(keys), *part]
        yield {"head": [head[i] for i in columns], "rows": [[row[i] for i in columns] for row in rows]}


def _rich(content: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(content["head"]):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0)
    for row in content["rows"]:
        table.add_row(*row)
    return table
