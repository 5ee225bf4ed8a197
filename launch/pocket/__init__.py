"""The pocket pair: two small models of the project's own, for a machine with no hub and no GPU."""

from pathlib import Path

from a1_sgl.errors import ConfigError
from a1_sgl.launch.cpu_engine import has_gpu
from a1_sgl.launch.runtimes import Spec

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
