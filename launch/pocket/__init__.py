"""The pocket pairs: small models of the project's own, a draft and a target for each generated task.

They are for a machine with no hub and no GPU. The pair of task `chain` writes a short line a step and serves where time
matters more than likeness; that of `stories` works a sentence a step and is what a real pair is like.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from a1_sgl.arguments import StrPath, path
from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.launch.devices import devices
from a1_sgl.launch.layout import specs
from a1_sgl.launch.recipes import find_recipe
from a1_sgl.launch.runtimes import Spec, serve

if TYPE_CHECKING:
    from a1_sgl.session import Backend

_HERE = Path(__file__).parent


PAIRS = {"chain": "pocket", "stories": "pocket-stories"}
"""Tasks that have a pair, and the launch recipe that serves it."""


def pocket_specs(task: str = "chain") -> tuple[Spec, Spec]:
    """Draft and target of `task` as they are served.

    Raises:
        ConfigError: the task has no pair, or the weights are missing.
    """
    if task not in PAIRS:
        raise ConfigError(f"task {task!r} has no pocket pair; these have: {', '.join(PAIRS)}")
    found = {spec.role: spec for spec in specs(find_recipe(PAIRS[task]), devices())}
    return found["draft"], found["target"]


def card_path(task: str) -> Path:
    """The calibration card of a pair, for program `a1` with its task's defaults (`a1_sgl.launch.pocket.calibrate`)."""
    return _HERE / task / "calibration.json"


@contextmanager
def pocket_pair(task: str = "chain", logs: StrPath | None = None) -> Iterator[Backend]:
    """Starts both runtimes of a pocket pair and connects to them for the length of a ``with`` block.

    That takes half a minute.

    Args:
        logs: folder for their logs, which stay there. None keeps them in a temporary one, which stays only after a
            fault of a runtime.

    Raises:
        ConfigError: as `pocket_specs`.
        RuntimeFault: a runtime did not start; it names the log, as does a note of one that ends the block.
    """
    from a1_sgl.session import Backend

    specs = pocket_specs(task)
    folder = path(logs, "logs") if logs is not None else Path(mkdtemp(prefix="a1-logs-"))
    kept = logs is not None
    try:
        with serve(specs, folder) as (draft, target), Backend.connect(draft.url, target.url) as pair:
            yield pair
    except RuntimeFault as fault:
        fault.add_note(f"logs of the runtimes: {folder}")
        kept = True
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
