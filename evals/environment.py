"""What a run ran on: recorded with it; a calibration card compares the packages that scores depend on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from a1_sgl.runtime import Endpoint

SCORING = ("a1-sgl", "sglang", "torch", "transformers", "tokenizers")
PACKAGES = (*SCORING, "numpy", "scipy")


def environment(runtimes: Iterable[Endpoint] = ()) -> dict[str, Any]:
    """Versions, machine, and how large the models are."""
    return {
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "parameters": {runtime.name: runtime.parameters() for runtime in runtimes},
    }


def packages() -> dict[str, str | None]:
    """Versions of the packages that scores depend on."""
    return {package: _version(package) for package in SCORING}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
