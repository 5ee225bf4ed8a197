"""``python -m a1_sgl.launch.real prepare`` and ``... show``: what ``make real`` does."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.errors import A1Error
from a1_sgl.launch.real import FOLDER, real_specs
from a1_sgl.launch.real.prepare import prepare as make_models

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)
console = Console()
Folder = Annotated[Path, typer.Option(help="Where the models are.")]


@app.command()
def prepare(folder: Folder = FOLDER) -> None:
    """Download the models and convert them, unless that was done."""
    make_models(folder, lambda text: print(text, file=sys.stderr, flush=True))
    for spec in real_specs(folder):
        console.print(f"{spec.name}: {spec.model}", highlight=False, soft_wrap=True)


@app.command()
def show(
    folder: Folder = FOLDER,
    data: Annotated[
        Path | None, typer.Option(help="Folder with gsm8k.jsonl; without, questions are generated.")
    ] = None,
    questions: Annotated[int, typer.Option(help="How many are asked.")] = 4,
    chains: Annotated[int, typer.Option(help="Chains of each.")] = 2,
    out: Annotated[Path, typer.Option(help="For the run and the logs; what was there goes.")] = Path("runs/real"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Serve the pair, run A1 on it, and compare its scores with transformers'."""
    from a1_sgl.launch.real.show import measure

    started = time.monotonic()
    found = measure(folder, data, questions, chains, out)
    if as_json:
        import orjson

        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    run = found["run"]
    console.print(
        f"a1 on {run['task']}: {run['chains']} chains of {run['questions']} questions, {run['right']} right, "
        f"{run['lost']} lost; {run['take_overs']} of {run['decisions']} chunks taken over; written: "
        f"{run['draft_tokens']:,} tokens by SmolLM2, {run['target_tokens']:,} by Gemma",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(_table(found["agreement"]))
    console.print(
        f"texts whose ids say exactly the text: {found['exact']} of {found['texts']}\n"
        f"{time.monotonic() - started:.0f} s; the run: {run['out']}", highlight=False, soft_wrap=True,
    )  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in ("model", "scores of", "tokens", "longest", "cached", "token", "", "chunk", ""):
        table.add_column(column, justify="left" if column in ("model", "scores of") else "right", no_wrap=True)
    table.add_row(*[""] * 5, "largest", "mean", "largest", "mean", style="bold")
    for row in rows:
        differences = (row[name] for name in ("token_most", "token_mean", "chunk_most", "chunk_mean"))
        table.add_row(
            row["model"], row["of"], f"{row['tokens']:,}", f"{row['longest']:,}", f"{row['cached']:.0%}",
            *(f"{one:.1e}" for one in differences),
        )  # fmt: skip
    return table


if __name__ == "__main__":
    try:
        app(standalone_mode=False)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except A1Error as error:
        print(f"real: {error}", file=sys.stderr)
        sys.exit(2)
