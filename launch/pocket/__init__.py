"""The pocket pair: two small models of the project's own, for a machine with no hub and no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from a1_sgl.errors import ConfigError
from a1_sgl.launch.cpu_engine import has_gpu
from a1_sgl.launch.runtimes import Spec, serve

if TYPE_CHECKING:
    from a1_sgl.session import Backend

_HERE = Path(__file__).parent


def pocket_specs() -> tuple[Spec, Spec]:
    """Draft and target as they are served.

    Raises:
        ConfigError: the weights are missing.
    """
    # On a GPU the two share one device; by default each would take most of its memory.
    flags = ("--mem-fraction-static", "0.2") if has_gpu() else ()
    specs = tuple(Spec(role, str(_HERE / role), flags) for role in ("draft", "target"))
    for spec in specs:
        if not (Path(spec.model) / "model.safetensors").exists():
            raise ConfigError(
                f"{spec.model} holds no weights; train them with: python -m a1_sgl.launch.pocket.train {spec.name}"
            )
    return specs[0], specs[1]


@contextmanager
def pocket_pair(logs: Path = Path("runs/logs")) -> Iterator[Backend]:
    """Starts both pocket runtimes, which takes half a minute, and connects to them for the length of a ``with`` block.

    Raises:
        ConfigError: as `pocket_specs`.
        A1Error: a runtime did not start; its log is in `logs`.
    """
    from a1_sgl.session import Backend

    with serve(pocket_specs(), logs) as (draft, target), Backend.connect(draft.url, target.url) as pair:
        yield pair
