"""The pocket pair: two small models of the project's own, for a machine with no hub and no GPU."""

from pathlib import Path

from a1_sgl.errors import ConfigError
from a1_sgl.launch.runtimes import Spec

_HERE = Path(__file__).parent


def pocket_specs() -> tuple[Spec, Spec]:
    """Draft and target as they are served.

    Raises:
        ConfigError: the weights are missing.
    """
    specs = tuple(Spec(role, str(_HERE / role)) for role in ("draft", "target"))
    for spec in specs:
        if not (Path(spec.model) / "model.safetensors").exists():
            raise ConfigError(
                f"{spec.model} holds no weights; train them with: python -m a1_sgl.launch.pocket.train {spec.name}"
            )
    return specs[0], specs[1]
