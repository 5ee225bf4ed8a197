"""What the shell may complete an option's value to. It is asked with every TAB, so nothing here imports SGLang."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from a1_sgl.errors import A1Error
from a1_sgl.registry import headline

if TYPE_CHECKING:
    from a1_sgl.programs.outline import Outline

Found = list[tuple[str, str]]


def gates(incomplete: str) -> Found:
    """Gates, with a line about each."""
    from a1_sgl.conformal import KNOWN

    return _matching(incomplete, ((name, headline(make.__doc__)) for name, make in KNOWN.items()))


def replayed(incomplete: str) -> Found:
    """Gates and rules that `a1 replay` knows."""
    from a1_sgl.conformal import GATES
    from a1_sgl.evals.replay import RULES

    return _matching(incomplete, ((name, "") for name in (*GATES, *RULES)))


def first_stages(incomplete: str) -> Found:
    """Scores that need no prefill."""
    from a1_sgl.conformal import SCORES

    return _matching(incomplete, ((name, one.about) for name, one in SCORES.items() if one.by_draft))


def simulated(incomplete: str) -> Found:
    """Pairs to simulate that come with the package, and files."""
    folder = files("a1_sgl.evals.simulate") / "pairs"
    names = sorted(one.name.removesuffix(".yaml") for one in folder.iterdir() if one.name.endswith(".yaml"))
    return _matching(incomplete, [(name, "") for name in names]) or _files(incomplete, (".yaml", ".yml"))


def alarms(incomplete: str) -> Found:
    """What a drift alarm does."""
    from a1_sgl.conformal.alarm import ACTIONS

    return _matching(incomplete, ((name, "") for name in ACTIONS))


def audits(incomplete: str) -> Found:
    """Ways to audit a chunk."""
    from a1_sgl.evals import tasks  # noqa: F401  # audits of their own come with it
    from a1_sgl.session import AUDITS

    return _matching(incomplete, ((name, one.about) for name, one in AUDITS.items()))


def votes(context: typer.Context, incomplete: str) -> Found:
    """Votes, those of the program's file included."""
    from a1_sgl.voting import VOTES

    own = _registered(context, "vote")
    return _matching(incomplete, [*((name, headline(one.__doc__)) for name, one in VOTES.items()), *own])


def rates(context: typer.Context, incomplete: str) -> Found:
    """Ratings, those of the program's file included."""
    from a1_sgl.session import RATES

    return _matching(incomplete, [*((name, one.about) for name, one in RATES.items()), *_registered(context, "rate")])


def tasks(incomplete: str) -> Found:
    """Tasks, and files."""
    from a1_sgl.evals.tasks import TASKS

    return _matching(incomplete, [(name, "") for name in TASKS]) or _files(incomplete, (".yaml", ".yml"))


def launches(incomplete: str) -> Found:
    """Launch recipes, and files."""
    from a1_sgl.launch.recipes import RECIPES, find_recipe

    found = _matching(incomplete, ((name, find_recipe(name).about) for name in RECIPES))
    return found or _files(incomplete, (".yaml", ".yml"))


def programs(incomplete: str) -> Found:
    """Programs; of a file that is named, those in it; else files."""
    path, colon, _ = incomplete.rpartition(":")
    known = [(f"{path}{colon}{one.name}", one.about) for one in _outlines(path)]
    return _matching(incomplete, known) or _files(incomplete, (".py",))


def chunkings(incomplete: str) -> Found:
    """What may end a chunk."""
    from a1_sgl.programs import CHUNKINGS

    return _matching(incomplete, ((name, "") for name in CHUNKINGS))


def recipes(incomplete: str) -> Found:
    """Recipes, and files."""
    from a1_sgl.evals.recipes import RECIPES, find_recipe

    found = _matching(incomplete, ((name, find_recipe(name).about) for name in RECIPES))
    return found or _files(incomplete, (".yaml", ".yml"))


def runtimes(incomplete: str) -> Found:
    """Which runtimes a program runs on."""
    return _matching(incomplete, (("draft", ""), ("target", ""), ("both", "")))


def parameters(context: typer.Context, incomplete: str) -> Found:
    """Parameters of the program that is named so far; of a score, its values."""
    from a1_sgl.conformal import SCORES

    name, equals, _ = incomplete.partition("=")
    if equals:
        scores = [*((name, one.about) for name, one in SCORES.items()), *_registered(context, "score")]
        return _matching(incomplete, ((f"score={one}", about) for one, about in scores)) if name == "score" else []
    path, _, asked = str(context.params.get("program") or "a1").rpartition(":")
    return _matching(incomplete, ((f"{own}=", "") for one in _outlines(path) if one.name == asked for own in one.own))


def _registered(context: typer.Context, kind: str) -> Found:
    from a1_sgl.programs.outline import registered

    path, _, _ = str(context.params.get("program") or "").rpartition(":")
    with suppress(A1Error):
        return [(name, f"in {path}") for name in registered(Path(path), kind)] if path else []
    return []


def _outlines(path: str) -> list[Outline]:
    """The programs of that file, or, without one, the library's."""
    from a1_sgl.programs.outline import library, outlines

    with suppress(A1Error):
        return outlines(Path(path)) if path else library()
    return []


def _files(incomplete: str, kinds: tuple[str, ...]) -> Found:
    """Folders, and files of these kinds, that the path could go on to."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    names = ((f"{path}/" if path.is_dir() else f"{path}{':' * (kinds == ('.py',))}", "") for path in found
             if path.is_dir() or path.suffix in kinds)  # fmt: skip
    return _matching(incomplete.removeprefix("./"), names)


def _matching(incomplete: str, found: Iterable[tuple[str, str]]) -> Found:
    # A shell takes a second line for another value, and Typer folds a long one.
    return [
        (name, textwrap.shorten(about, 70, placeholder=" ...")) for name, about in found if name.startswith(incomplete)
    ]
