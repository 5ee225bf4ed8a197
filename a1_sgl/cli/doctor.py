"""`a1 doctor`: is this machine ready, and do the runtimes do what A1 needs?"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
from rich.table import Table
from rich.text import Text

from a1_sgl.cli import common, complete, console
from a1_sgl.cli.runtimes import Runtimes, takes_runtimes
from a1_sgl.errors import A1Error, ConfigError

if TYPE_CHECKING:
    from a1_sgl.engine import Settings
    from a1_sgl.engine.gateway import Worker
    from a1_sgl.launch.recipes import Recipe

_COLOURS = {"ok": "green", "none": "yellow", "tight": "yellow", "unknown": "yellow", "wrong": "red"}
_QUESTION = 256
"""Tokens of a question, when nothing else is known."""


class _Unknown(Exception):
    """What is asked after was not measured."""


@takes_runtimes
def doctor(
    runtimes: Runtimes,
    recipe: Annotated[
        str | None,
        typer.Argument(help="A launch recipe: will it fit, will A1 pay?", autocompletion=complete.launches),
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="COUNTxGIB", help="GPUs for the recipe, such as 2x80. [default: those here]")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens of the longest chain. [default: all turns of the recipe of that name]")
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Check the installation, the machine, and the runtimes if there are any; exit status 1 if something is wrong.

    With a launch recipe: whether its weights fit, and the KV cache of so many chains (--in-flight) of that length.
    """
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")
    wrong, found = 0, []

    def note(name: str, state: str, what: str) -> None:
        found.append({"name": name, "state": state, "says": what})
        table.add_row(name, Text(state, style=_COLOURS[state]), Text(what))

    def check(name: str, probe: Callable[[], str]) -> None:
        nonlocal wrong
        try:
            note(name, "ok", probe())
        except _Unknown as unknown:
            note(name, "none", str(unknown))
        except (A1Error, ImportError, OSError, ValueError) as error:
            wrong += 1
            note(name, "wrong", str(error))

    check("python", lambda: platform.python_version())
    check("sglang", _sglang)
    check("engine", _engine)
    check("machine", lambda: f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB memory")
    check("pocket pairs", _pocket)
    if recipe is not None:
        for name, state, what in _fits(recipe, gpus, length, runtimes):
            wrong += state == "wrong"
            note(name, state, what)
    elif gpus is not None or length is not None:
        raise ConfigError("--gpus and --length are for a launch recipe; name one, see `a1 recipes`")
    try:
        where = runtimes.urls(("draft", "target"))
    except A1Error as error:
        note("runtimes", "none", str(error))
    else:
        from a1_sgl.engine import wait

        settings = runtimes.settings
        for name, url in ((name, url) for name, urls in where.items() for url in urls):
            check(f"{name} runtime", lambda name=name, url=url: wait(_runtime(name, url, settings)))  # type: ignore[misc]
        check("together", lambda: _together(runtimes))
        if len(where["target"]) == 1:
            check("speed", lambda: _pays(runtimes))
    if as_json:
        common.as_json({"checks": found})
    else:
        console.print(table)
    if wrong:
        raise typer.Exit(1)


def _sglang() -> str:
    from a1_sgl.launch.cpu_engine import enable

    enable()  # as whatever uses SGLang here does
    import sglang
    import torch

    return f"sglang {sglang.__version__}, torch {torch.__version__}"


def _engine() -> str:
    from a1_sgl.launch.cpu_engine import has_gpu

    return "GPU" if has_gpu() else "CPU (torch-native attention; stand-ins for what only a GPU needs)"


def _pocket() -> str:
    from a1_sgl.launch.pocket import PAIRS, pocket_specs

    for task in PAIRS:
        pocket_specs(task)
    return f"weights for {' and '.join(PAIRS)} are here"


def _fits(name: str, gpus: str | None, length: int | None, runtimes: Runtimes) -> Iterator[tuple[str, str, str]]:
    """How each role of the recipe stands, and what is known of whether A1 pays on its target."""
    from a1_sgl.evals.speed.rho import ALPHA, CHUNK, Rho
    from a1_sgl.launch.devices import devices, planned
    from a1_sgl.launch.fit import Load, fits
    from a1_sgl.launch.recipes import find_recipe

    recipe = find_recipe(name)
    here = devices() if gpus is None else planned(gpus)
    load = Load(runtimes.in_flight, length if length is not None else _longest(recipe))
    for fit in fits(recipe, here, load, psutil.virtual_memory().total / 2**30):
        change = f"; what would: {fit.change}" if fit.change else ""
        yield f"{fit.role} fits", fit.state, fit.says + change
    if recipe.target is not None:
        found = Rho.find(runtimes.state)
        if found is None or found.model.rstrip("/").rpartition("/")[2] != recipe.target.model.rpartition("/")[2]:
            yield "A1 pays", "none", "not measured on this target; with it running, `a1 bench rho` says in two minutes"
        else:
            yield "A1 pays", "ok", found.says(runtimes.in_flight, CHUNK, ALPHA)


def _longest(recipe: Recipe) -> int:
    """T x (K_d + K_t) and a question: of the eval recipe of that name, else of program a1 as it is."""
    from a1_sgl.evals.recipes import RECIPES, find_recipe
    from a1_sgl.programs import find_program

    program, given = find_program("a1"), find_recipe(recipe.name).parameters if recipe.name in RECIPES else {}
    own = ("turns", "draft_tokens", "target_tokens")
    turns, draft, target = (int(given.get(name, program.default(name))) for name in own)
    return turns * (draft + target) + _QUESTION


async def _runtime(name: str, url: str, settings: Settings) -> str:
    """Reads what it serves, then scores two tokens after a prompt and looks at what the prefix cache did."""
    from a1_sgl.engine import Request, SGLang
    from a1_sgl.errors import RuntimeFault
    from a1_sgl.session.transcript import as_ids

    engine = await SGLang.connect(url, name, settings=settings)
    try:
        ids = as_ids(engine.codec.encode("One and one is two. Two and two is four."))
        await engine.prefill(Request(ids[:-2]))
        scores = await engine.score(Request(ids), len(ids) - 2)
        if scores.spent.cached_tokens < len(ids) - 3:
            raise RuntimeFault(
                f"{engine}: its prefix cache kept {scores.spent.cached_tokens} of {len(ids) - 2} prompt tokens"
            )
        return (
            f"{engine.identity.model.rpartition('/')[2]}, context {engine.limits.context}, gives log-probabilities, "
            f"caches prefixes{_behind(await engine.workers())}"
        )
    finally:
        await engine.close()


def _behind(workers: Sequence[tuple[Worker, bool]]) -> str:
    """What stands behind a gateway, and whether aborts get there."""
    if not workers:
        return ""
    count = f"{len(workers)} worker{'s' * (len(workers) > 1)}"
    found = f"; a gateway before {count}: {', '.join(one.url for one, _ in workers)}"
    if ill := [one.url for one, _ in workers if not one.healthy]:
        found += f"; it finds {' and '.join(ill)} not healthy"
    if far := [one.url for one, reached in workers if not reached]:
        where = "none of them from here" if len(far) == len(workers) else f"not {' and '.join(far)} from here"
        return f"{found}; aborts reach {where}: what is stopped there ends when its connection is cut, seconds later"
    return f"{found}; aborts reach {'all of them' if len(workers) > 1 else 'it'}"


def _pays(runtimes: Runtimes) -> str:
    """What was measured of the target."""
    from a1_sgl.evals.speed.rho import ALPHA, CHUNK, Rho

    found = Rho.find(runtimes.state)
    if found is None:
        raise _Unknown("not measured; `a1 bench rho` says in two minutes whether A1 pays on the target")
    with runtimes.connect("target") as target:
        served = target.roles.writer.engine.identity
    if served.model_sha256 != found.model_sha256:
        raise _Unknown(f"measured of another model, {found.model}; run `a1 bench rho` again")
    return found.says(runtimes.in_flight, CHUNK, ALPHA)


def _together(runtimes: Runtimes) -> str:
    with runtimes.connect(None) as pair:
        same = len({role.engine.codec.tokenizer_key for role in pair.roles.all}) == 1
        return "one tokenizer: ids pass across" if same else "two tokenizers: text is encoded anew for each"
