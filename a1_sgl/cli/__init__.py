"""The command line, `a1`: one module a command.

Modules import what they need inside their commands, so that ``a1 --help`` does not wait for sglang and torch.
"""

from __future__ import annotations

import sys
import traceback
from functools import cache
from typing import Annotated

import typer

from a1_sgl import __version__
from a1_sgl.cli.app import App, Screen, VerboseOption, quiet, verbose
from a1_sgl.errors import A1Error, told

app = App(
    name="a1",
    help="Test-time scaling with a draft and a target model on SGLang, gated by conformal p-values.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Screen()
errors = Screen(stderr=True)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"a1-sgl {__version__}")
        raise typer.Exit


@typer.Typer.callback(app)  # the others' options are those of commands
def _a1(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    pass


@cache
def _register() -> None:
    from a1_sgl.cli import (
        bench,
        calibrate,
        certify,
        compare,
        demo,
        doctor,
        eval,
        grade,
        launch,
        lists,
        replay,
        report,
        serve,
        simulate,
        solve,
        tasks,
        timeline,
    )

    app.add_typer(launch.app, name="launch")
    app.add_typer(bench.app, name="bench")
    app.command("calibrate")(calibrate.calibrate)
    app.command("certify")(certify.certify)
    app.command("eval")(eval.eval_)
    app.command("grade")(grade.grade)
    app.command("compare")(compare.compare)
    app.command("report")(report.report)
    app.command("timeline")(timeline.timeline)
    app.command("replay")(replay.replay)
    app.add_typer(simulate.app, name="simulate")
    app.command("serve")(serve.serve)
    app.command("solve")(solve.solve)
    app.add_typer(tasks.app, name="tasks")
    app.command("programs")(lists.programs)
    app.command("votes")(lists.votes)
    app.command("recipes")(lists.recipes)
    app.command("gates")(lists.gates)
    app.command("scores")(lists.scores)
    app.command("doctor")(doctor.doctor)
    app.command("demo")(demo.demo)


def main() -> None:
    """Entry point: errors that a user can act on go to stderr in one piece, with exit status 2."""
    _register()
    quiet()
    try:
        app(prog_name="a1")  # also where it is run as a module
    except A1Error as error:
        if verbose():
            traceback.print_exc()
        errors.print(f"a1: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        # A file or folder that was named cannot be what it is to be: --out below a file, say, or on a full disk.
        errors.print(
            f"a1: {error.filename}: {error.strerror}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except Exception as error:  # a program's own, or a mistake of ours
        if verbose():
            traceback.print_exc()
        hint = "" if verbose() else "; --verbose shows the traceback"
        errors.print(f"a1: {told(error)}{hint}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
