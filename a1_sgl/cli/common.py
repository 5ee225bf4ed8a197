"""Options and helpers that several commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from a1_sgl.cli import complete, console
from a1_sgl.cli.app import FILES, SET, once
from a1_sgl.conformal.gates import DEFAULT, FROZEN
from a1_sgl.errors import ConfigError

if TYPE_CHECKING:
    from a1_sgl.conformal.card import Card
    from a1_sgl.evals.runner import Eval
    from a1_sgl.programs import Program as Strategy
    from a1_sgl.session import Backend

StateDir = Annotated[
    Path, typer.Option("--state", envvar="A1_STATE", help="Folder where `a1 launch` notes its runtimes.")
]
TaskName = Annotated[str, typer.Option("--task", help="What to solve; see `a1 tasks`.", autocompletion=complete.tasks)]
Seed = Annotated[int, typer.Option(help="Draws the questions and the gate's smoothing numbers.")]
Questions = Annotated[int | None, typer.Option(help="How many questions. [default: all; 100 that are generated]")]
Data = Annotated[
    Path | None,
    typer.Option(help="File or folder with the task's rows: jsonl, json, parquet or csv. [default: the hub]"),
]
Family = Annotated[
    str | None,
    typer.Option(help="Kind of model that prompts are for; see `a1 tasks show`. [default: the task's first]"),
]
Chains = Annotated[int, typer.Option(help="Chains for each question.")]
Levels = Annotated[str | None, typer.Option(help="Difficulties, as FIRST:LAST. [default: all]")]
Temperature = Annotated[float | None, typer.Option(help="Sampling temperature. [default: the task's]")]
TopP = Annotated[float, typer.Option(help="Nucleus sampling.")]
Program = Annotated[
    str,
    typer.Option(
        "--program", help="How to solve; see `a1 programs`. Or yours: path/to/file.py:NAME.",
        autocompletion=complete.programs,
    ),
]  # fmt: skip
RuntimeName = Annotated[
    str | None,
    typer.Option(
        "--runtime", help="draft, target or both. [default: both if the target writes too, else target]",
        autocompletion=complete.runtimes,
    ),
]  # fmt: skip
Vote = Annotated[
    str | None,
    typer.Option(
        help="How chains make an answer; see `a1 votes`. [default: the program's way]", autocompletion=complete.votes
    ),
]
Rate = Annotated[
    str | None,
    typer.Option(
        help="How chains are rated for the vote; see `a1 votes`. [default: the program's way]",
        autocompletion=complete.rates,
    ),
]
Chunking = Annotated[
    str | None,
    typer.Option(
        help="What ends a chunk: tokens, step, line or sentence. [default: the task's way]",
        autocompletion=complete.chunkings,
    ),
]


def _with_file(context: typer.Context, given: list[str] | None) -> list[str] | None:
    """Parameters of an options file, then those of the command line, which go before them."""
    return [*context.meta.get(SET, ()), *once(given or [], "--set")] or None


Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A parameter of the program, as NAME=VALUE.", callback=_with_file,
        autocompletion=complete.parameters,
    ),
]  # fmt: skip
Alpha = Annotated[float, typer.Option(help="Nominal take-over rate, between 0 and 1.")]
GateName = Annotated[
    str, typer.Option("--gate", help="How alpha is held; see `a1 gates`.", autocompletion=complete.gates)
]
CardGate = Annotated[
    str | None,
    typer.Option(
        "--gate", help=f"How alpha is held; see `a1 gates`. [default: {FROZEN} if certified, else {DEFAULT}]",
        autocompletion=complete.gates,
    ),
]  # fmt: skip
CardAlpha = Annotated[
    float | None,
    typer.Option("--alpha", help="Nominal take-over rate. [default: as certified, else the card's, else 0.25]"),
]
Certified = Annotated[
    bool, typer.Option("--certified", help="Refuse to run what the card's certificate does not speak of.")
]
FirstStage = Annotated[
    str | None,
    typer.Option(
        metavar="SCORE",
        help="Accept chunks unseen by this score of the draft's own evidence; see `a1 scores`. [default: none]",
        autocompletion=complete.first_stages,
    ),
]
CardPath = Annotated[
    Path | None,
    typer.Option("--calibration", help="Card from `a1 calibrate`. [default: none; solve has the pocket pairs' own]"),
]


def _recipe(context: typer.Context, name: str | None) -> str | None:
    """Makes a recipe's options the defaults of the command's; those of the command line go before them.

    Its split is what a test is on, so `a1 calibrate` and `a1 certify` keep their own.
    """
    if name is not None:
        from a1_sgl.evals.recipes import find_recipe

        known = {parameter.name for parameter in context.command.params}
        known -= {"split"} if context.command.name in ("calibrate", "certify") else set()
        defaults = {key: value for key, value in find_recipe(name).options.items() if key in known}
        context.default_map = {**defaults, **(context.default_map or {})}  # a file of options is the user's own
    return name


RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe", callback=_recipe, is_eager=True, help="Options from a recipe; see `a1 recipes`.",
        autocompletion=complete.recipes,
    ),
]  # fmt: skip
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Throw away what an earlier run left in --out.")]

STATE = Path(".a1")
NO_CARD = (
    "no --calibration card: the gate's bank starts empty, so its first p-values are chance, and it hands over chunks "
    "that it knows nothing of; `a1 calibrate --out runs/calibration` makes a card, --calibration "
    "runs/calibration/card.json uses it"
)


def runtime(name: str | None, program: str) -> str | None:
    """The one runtime to run `program` on; None is both."""
    from a1_sgl.programs import find_program

    if name not in (None, "draft", "target", "both"):
        raise ConfigError(f"--runtime is draft, target or both, not {name!r}")
    if name is None:
        return None if find_program(program).takes_over else "target"
    return None if name == "both" else name


def parameters(pairs: list[str] | None, recipe: str | None = None) -> dict[str, Any]:
    """A recipe's parameters, then ``NAME=VALUE``; a value that is JSON is taken as such, anything else as text."""
    from a1_sgl.evals.recipes import find_recipe

    given = find_recipe(recipe).parameters if recipe is not None else {}
    found: dict[str, Any] = {}
    pairs = [*(f"{name}={value}" for name, value in given.items()), *(pairs or [])]
    for one in pairs:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set takes NAME=VALUE, not {one!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def sampling(temperature: float | None, top_p: float, default: float) -> dict[str, Any]:
    """Checked sampling parameters."""
    temperature = default if temperature is None else temperature
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"--temperature must be at least 0, not {temperature}")
    if not 0 < top_p <= 1:
        raise ConfigError(f"--top-p must lie in (0, 1], not {top_p}")
    return {"temperature": temperature, "top_p": top_p}


def idle(context: typer.Context, names: Iterable[str], under: str, why: str) -> None:
    """Refuses options that were given although, as `under` is, they do nothing.

    One that a file or a recipe gives is left aside where `under` was given nearer: the command line goes before a file
    of options, and that before a recipe, so what goes with a recipe's program is none of another program's.

    Args:
        names: of the command's parameters.
        under: the parameter that makes them do nothing.
        why: continues "--eta 0.1 does nothing", and says what to do.

    Raises:
        ConfigError: the first of them.
    """
    options = {str(one.name): one for one in context.command.params}
    for name in names:
        if 0 < _nearness(context, name) >= _nearness(context, under):
            flag = next(one for one in options[name].opts if one.startswith("--"))
            value = context.params[name]
            said = "" if value is True else f" {' '.join(map(str, value)) if isinstance(value, list) else value}"
            raise ConfigError(f"{flag}{said} does nothing {why}, or leave {flag} out")


def _nearness(context: typer.Context, name: str) -> int:
    """How near to the user an option was given: 0 not at all, 1 by a recipe, 2 by a file of options, 3 by itself."""
    source = getattr(context.get_parameter_source(name), "name", "DEFAULT")
    if source == "DEFAULT_MAP":
        return 2 if name in context.meta.get(FILES, ()) else 1
    return 0 if source == "DEFAULT" else 3


def check_gated(context: typer.Context, program: Strategy, alpha: float | None, names: Iterable[str]) -> bool:
    """Whether the program is to run with a gate; where it is not, options of gates are refused.

    Raises:
        ConfigError: one of `names` was given; see `idle`.
    """
    if program.gate == "required" or (program.gate == "optional" and alpha is not None):
        return True
    if program.gate == "optional":
        why = "takes a gate only with --alpha; give that too"
    else:
        why = "takes no gate; name another program (see `a1 programs`)"
    idle(context, names, "program", f"with program {program.name}, which {why}")
    return False


def alpha(given: float | None, card: Card | None) -> float:
    """The rate asked for: as given, else the cheapest one certified, else the card's own, else a quarter."""
    if given is not None:
        return given
    if card is not None and card.certificate is not None:
        return card.certificate.alpha
    return card.alpha if card else 0.25


def gate(given: str | None, card: Card | None) -> str:
    """The gate asked for: as given, else the one that the card is certified with, else the default."""
    return given or (FROZEN if card is not None and card.certificate is not None else DEFAULT)


def as_json(content: Any) -> None:
    """Prints it as one line of JSON."""
    typer.echo(json.dumps(content, default=_jsonable))


def _jsonable(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def span(text: str) -> list[float]:
    """Parses ``FIRST:LAST:STEP`` or ``A,B,C`` into increasing numbers."""
    try:
        if ":" in text:
            first, last, step = map(float, text.split(":"))
            if not (step > 0 and last >= first and (last - first) / step < 10_000):
                raise ValueError
            count = math.floor((last - first) / step + 1e-9) + 1
            return [round(first + i * step, 12) for i in range(count)]
        return sorted({float(one) for one in text.split(",")})
    except ValueError:
        raise ConfigError(
            f"a range of numbers is FIRST:LAST:STEP, such as 0.1:0.6:0.1, or A,B,C; not {text!r}"
        ) from None


def card(path: Path | None) -> Card | None:
    """Loads a card, if one is named."""
    from a1_sgl.conformal.card import Card

    return Card.load(path) if path else None


def check_recipe(name: str | None, plan: Eval, backend: Backend) -> None:
    """Refuses runtimes that serve other models than a recipe is for."""
    if name is not None:
        from a1_sgl.evals.recipes import find_recipe

        models = plan.protocol(backend)["models"]
        find_recipe(name).check({runtime: one["model"] for runtime, one in models.items()})


def short_names(runs: Sequence[Path]) -> dict[str, Path]:
    """Run folders by the shortest ends of their paths that tell them apart.

    Raises:
        ConfigError: a run is named twice.
    """
    paths = [run.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise ConfigError(f"a run is named twice: {', '.join(map(str, runs))}")
    for length in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, runs, strict=True))


def percent(interval: dict[str, Any], key: str) -> str:
    """``12.3% [10.1, 14.5]``, or a dash."""
    if interval[key] is None:
        return "-"
    return f"{100 * interval[key]:.1f}% [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def print_summaries(runs: dict[str, dict[str, Any]]) -> None:
    """Runs side by side; fits 80 columns with up to three of them."""
    from a1_sgl.evals.metrics import shown_bound

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in runs:
        table.add_column(name, justify="right")
    first = next(iter(runs.values()))

    def row(name: str, cell: Any) -> None:
        table.add_row(name, *(cell(summary) for summary in runs.values()))

    k = str(first["chains_per_question"])
    row("accuracy", lambda s: percent(s["accuracy"], "mean"))
    row(f"maj@{k}", lambda s: percent(s["maj_at"][k], "mean"))
    row(f"pass@{k}", lambda s: percent(s["pass_at"][k], "mean"))
    if any(s["vote"] != "majority" for s in runs.values()):
        row("answers (own vote)", lambda s: percent(s["answer_accuracy"], "mean"))
    row("take-over rate", lambda s: percent(s["take_over"], "realised"))
    row("  alpha", lambda s: _plain(s["take_over"]["nominal"]))
    row("  bound", lambda s: shown_bound(s["take_over"]["bound"]))
    row("  by turn", lambda s: _widest(s["take_over"]["by_turn"]))
    row("  selectivity", lambda s: _plain(s["take_over"]["selectivity"]))
    if any((s["take_over"]["verified"] or 0) < 1 for s in runs.values() if s["take_over"]["decisions"]):
        row("  verified", lambda s: _plain(s["take_over"]["verified"]))
    row("  decisions", lambda s: f"{s['take_over']['decisions']:,}" if s["take_over"]["decisions"] else "-")
    if any(s["audits"] for s in runs.values()):

        def audited(name: str, cell: Any) -> None:
            row(name, lambda s: cell(s["audits"]) if s["audits"] else "-")

        audited("audits", lambda a: f"{a['wrong']['decisions']:,}")
        audited("  wrong", lambda a: percent(a["wrong"], "realised"))
        audited("  target decode", lambda a: f"{a['tokens']['target_decode']:,}")
        audited("false accepts", lambda a: _plain(a["false_accepts"]["estimate"]))
        audited("  at most", lambda a: _plain(a["false_accepts"]["most"]))
        audited("  epsilon", lambda a: _plain(a["epsilon"]))
    for name in ("draft", "target"):
        row(f"{name} decode", lambda s, name=name: f"{s['tokens'][f'{name}_decode']:,}")
        if any(s["tokens"][f"{name}_dropped"] for s in runs.values()):
            row("  of it dropped", lambda s, name=name: f"{s['tokens'][f'{name}_dropped']:,}")
    row("target prefill", lambda s: f"{s['tokens']['target_prefill']:,}")
    if any(s["tokens"]["target_spared"] for s in runs.values()):
        row("  spared", lambda s: f"{s['tokens']['target_spared']:,}")
    row("cached share", lambda s: _plain(s["tokens"]["cached_share"]))
    row("wall-clock", lambda s: f"{s['wall_s']:.1f} s")
    row("chains", lambda s: f"{s['chains_completed']:,}" + (f" ({s['chains_lost']} lost)" if s["chains_lost"] else ""))
    console.print(table)
    console.print(
        "[...]: 95% intervals, clustered by question. bound: how far the rate can be from\n"
        "alpha after so many decisions, whatever the scores. selectivity: of the chunks\n"
        "handed over, the share that hindsight would have. decode, prefill: tokens.\n"
        "cached share: of prompt tokens."
        + (" false accepts: wrong chunks\naccepted per decision." if any(s["audits"] for s in runs.values()) else ""),
        markup=False,
    )


def print_turns(rates: dict[str, Any]) -> None:
    """A gate's rate in each turn, beside what it promises at that many decisions; nothing for a run without a gate."""
    alpha = rates["nominal"]
    if alpha is None or not rates["by_turn"]:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("turn", "decisions", "rate", "promised"):
        table.add_column(name, justify="right")
    for turn in rates["by_turn"]:
        bound = turn["bound"]
        promised = "-" if bound is None else f"{max(0, alpha - bound):.1%} to {min(1, alpha + bound):.1%}"
        table.add_row(str(turn["turn"]), f"{turn['decisions']:,}", percent(turn, "realised"), promised)
    console.print()
    console.print(table)
    console.print(
        f"promised: where the gate keeps that rate after so many decisions, whatever the\nscores are. It closes in on "
        f"alpha = {alpha:.1%} as decisions grow; -: nothing yet.", markup=False, highlight=False,
    )  # fmt: skip


def _widest(turns: Sequence[dict[str, Any]]) -> str:
    """The widest bound of a turn; where some turns have none, the narrowest."""
    from a1_sgl.evals.metrics import shown_bound

    bounds = [turn["bound"] for turn in turns]
    known = [one for one in bounds if one is not None]
    if not known:
        return "-"
    whole = len(known) == len(bounds)
    return f"at most {shown_bound(max(known))}" if whole else f"at best {shown_bound(min(known))}"


def _plain(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def report_losses(summary: dict[str, Any], as_json: bool = False) -> None:
    """Says what answers could not be compared and what chains were lost to, and ends with status 1 if any were lost.

    Beside JSON, which says it too, nothing goes to stdout.
    """
    for why, count in {} if as_json else summary["not_compared"].items():
        console.print(f"{count} answers count as wrong: {why}", markup=False, highlight=False)
    if not summary["chains_lost"]:
        return
    from a1_sgl.cli import errors

    for why, count in summary["errors"].items():
        errors.print(f"{count} chains lost: {why}", style="red", markup=False, highlight=False, soft_wrap=True)
    errors.print("the same command runs the lost chains again", markup=False)
    raise typer.Exit(1)
