"""`a1 doctor`: is this machine ready, and do the runtimes do what A1 needs?"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import psutil
import typer
from rich.table import Table

from a1_sgl.cli import common, console
from a1_sgl.errors import A1Error


def doctor(
    draft: common.DraftUrl = None, target: common.TargetUrl = None, state: common.StateDir = common.STATE
) -> None:
    """Check the installation, the machine, and the runtimes if there are any; exit status 1 if something is wrong."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")
    wrong = 0

    def check(name: str, probe: Callable[[], str]) -> None:
        nonlocal wrong
        try:
            table.add_row(name, "[green]ok[/]", probe())
        except (A1Error, ImportError, OSError, ValueError) as error:
            wrong += 1
            table.add_row(name, "[red]wrong[/]", str(error))

    check("python", lambda: platform.python_version())
    check("sglang", _sglang)
    check("engine", _engine)
    check("machine", lambda: f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB memory")
    check("pocket pair", _pocket)
    try:
        where = common.urls(("draft", "target"), {"draft": draft, "target": target}, state)
    except A1Error as error:
        table.add_row("runtimes", "[yellow]none[/]", str(error))
    else:
        for name, url in where.items():
            check(f"{name} runtime", lambda name=name, url=url: _runtime(name, url))  # type: ignore[misc]
        check("together", lambda: _together(where))
    console.print(table)
    if wrong:
        raise typer.Exit(1)


def _sglang() -> str:
    import sglang
    import torch

    return f"sglang {sglang.__version__}, torch {torch.__version__}"


def _engine() -> str:
    from a1_sgl.launch.cpu_engine import has_gpu

    return "GPU" if has_gpu() else "CPU (torch-native attention; stand-ins for what only a GPU needs)"


def _pocket() -> str:
    from a1_sgl.launch.pocket import pocket_specs

    return ", ".join(spec.model.rpartition("/")[2] for spec in pocket_specs()) + " weights are here"


def _runtime(name: str, url: str) -> str:
    """Reads what it serves, then scores two tokens after a prompt and looks at what the prefix cache did."""
    from a1_sgl.errors import RuntimeFault
    from a1_sgl.runtime import Endpoint

    with Endpoint(url, name) as endpoint:
        ids = endpoint.encode("One and one is two. Two and two is four.")
        endpoint.prefill(ids[:-2])
        _, call = endpoint.loss(ids[:-2], ids[-2:])
        if call.cached_tokens < len(ids) - 3:
            raise RuntimeFault(
                f"{endpoint}: its prefix cache kept {call.cached_tokens} of {len(ids) - 2} prompt tokens"
            )
        return (
            f"{endpoint.model.rpartition('/')[2]}, context {endpoint.context}, gives log-probabilities, caches prefixes"
        )


def _together(where: dict[str, str]) -> str:
    from a1_sgl.runtime import DraftTarget

    with DraftTarget.connect(where["draft"], where["target"]) as pair:
        return (
            "one tokenizer: ids pass across" if pair.same_tokenizer else "two tokenizers: text is encoded anew for each"
        )
