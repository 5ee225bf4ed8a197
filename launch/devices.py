"""The GPUs of this machine, or those that are planned for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from a1_sgl.errors import ConfigError, first_line
from a1_sgl.launch.cpu_engine import has_gpu


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: what its maker calls it.
        memory: in GiB.
        id: what ``CUDA_VISIBLE_DEVICES`` takes for it.
    """

    name: str
    memory: float
    id: str


def devices() -> list[Device]:
    """The GPUs that this process may use, by index; none on a machine without one.

    ``CUDA_VISIBLE_DEVICES`` is respected; its numbers are taken in the order of the bus, which is that of nvidia-smi.

    Raises:
        ConfigError: there is one, and the driver's tool does not say what it is.
    """
    if not has_gpu():
        return []
    found = _nvidia() if shutil.which("nvidia-smi") else _amd()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [device for device, _ in found]
    return [_named(word.strip(), found) for word in visible.split(",") if word.strip()]


def _named(word: str, found: Sequence[tuple[Device, Sequence[str]]]) -> Device:
    """A GPU by its number, or by the beginning of its id, as CUDA takes them."""
    for device, (index, *ids) in found:
        if word == index or any(one.startswith(word) for one in ids if not word.isdigit()):
            return device
    known = ", ".join(name for _, names in found for name in names)
    raise ConfigError(
        f"CUDA_VISIBLE_DEVICES names {word!r}, which is none of {known}; A1 lays out whole GPUs, so name those, or "
        "start the servers by hand"
    )


def _nvidia() -> Sequence[tuple[Device, Sequence[str]]]:
    told = _told("nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
    try:
        rows = [[word.strip() for word in line.split(",")] for line in told.splitlines() if line.strip()]
        found = [(Device(name, float(mebibytes) / 1024, index), (index, uuid)) for index, uuid, name, mebibytes in rows]
    except ValueError:
        found = []
    if not found:
        _unclear("nvidia-smi", told)
    return found


def _amd() -> Sequence[tuple[Device, Sequence[str]]]:
    told = _told("rocm-smi", "--showmeminfo", "vram", "--json")
    try:
        cards = sorted((int(name.removeprefix("card")), card) for name, card in json.loads(told).items())
        sizes = [float(card["VRAM Total Memory (B)"]) / 2**30 for _, card in cards]
    except (ValueError, KeyError, TypeError, AttributeError):
        sizes = []
    if not sizes:
        _unclear("rocm-smi", told)
    return [(Device("AMD GPU", size, str(index)), (str(index),)) for index, size in enumerate(sizes)]


def _told(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except subprocess.CalledProcessError as error:
        _unclear(command[0], error.stderr.strip() or error.stdout)
    except (OSError, subprocess.SubprocessError) as error:
        _unclear(command[0], first_line(error))


def _unclear(tool: str, told: str) -> NoReturn:
    raise ConfigError(
        f"{tool} does not say what GPUs there are: {' '.join(told.split()) or 'nothing'}; mend the driver; a plan "
        "needs none: --dry-run --gpus 2x80"
    )


def planned(text: str) -> list[Device]:
    """Reads ``2x80``: two GPUs of 80 GiB; ``0`` is a machine without one.

    Raises:
        ConfigError: it says something else.
    """
    count, _, memory = text.partition("x")
    try:
        if text == "0":
            return []
        number, size = int(count), float(memory)
        if not (1 <= number <= 1024 and 0 < size < 10_000):
            raise ValueError
    except ValueError:
        raise ConfigError(f"--gpus is COUNTxGIB, such as 2x80, or 0 for none; not {text!r}") from None
    return [Device(f"GPU of {size:g} GiB", size, str(index)) for index in range(number)]
