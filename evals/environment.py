"""What a run ran on: recorded with it; a calibration card compares the packages that scores depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from a1_sgl.engine import Engine
from a1_sgl.session import Backend

SCORING = ("a1-sgl", "sglang", "torch", "transformers", "tokenizers")
PACKAGES = (*SCORING, "numpy", "scipy")


def environment(backend: Backend) -> dict[str, Any]:
    """Versions, machine, and how large the models are, by role."""
    return {
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "machine": machine(),
        "parameters": {role.name: role.engine.identity.parameters for role in backend.roles.all},
    }


def machine() -> str:
    """What the client runs on."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"


def fingerprint(engine: Engine) -> dict[str, str]:
    """What a runtime serves: model, hash of its files, tokenizer and chat template."""
    identity, codec = engine.identity, engine.codec
    return {
        "model": Path(identity.model).name,
        "model_sha256": identity.model_sha256,
        "tokenizer_sha256": codec.tokenizer_key,
        "chat_template_sha256": codec.template_key,
    }


def packages() -> dict[str, str | None]:
    """Versions of the packages that scores depend on."""
    return {package: _version(package) for package in SCORING}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
