"""The GPUs of this machine, or those that are planned for."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from a1_sgl.errors import ConfigError, first_line


@dataclass(frozen=True)
class Device:
    """A GPU: its name and its memory, in GiB."""

    name: str
    memory: float


def devices() -> list[Device]:
    """What ``nvidia-smi`` shows here, by index; none on a machine without one.

    Raises:
        ConfigError: it is there and does not work.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        found = [line.rpartition(",") for line in told.splitlines() if line.strip()]
        return [Device(name.strip(), float(mebibytes) / 1024) for name, _, mebibytes in found]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or first_line(error)).strip()
        raise ConfigError(f"nvidia-smi does not say what GPUs there are ({said}); say it with --gpus 2x80") from error


def planned(text: str) -> list[Device]:
    """Reads ``2x80``: two GPUs of 80 GiB; ``0`` is a machine without one.

    Raises:
        ConfigError: it says something else.
    """
    count, _, memory = text.partition("x")
    try:
        if text == "0":
            return []
        found = [Device(f"GPU of {float(memory):g} GiB", float(memory))] * int(count)
        if not found or not 0 < float(memory) < 10_000:
            raise ValueError
    except ValueError:
        raise ConfigError(f"--gpus is COUNTxGIB, such as 2x80, or 0 for none; not {text!r}") from None
    return found
