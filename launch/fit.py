"""Whether a recipe fits the machine: weights and KV cache of every runtime against the memory it has.

An estimate, from the models' configurations and SGLang's own rule for the memory that it leaves free; what a server
really has it says when it starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from a1_sgl.errors import ConfigError
from a1_sgl.launch.devices import Device
from a1_sgl.launch.layout import lay_out
from a1_sgl.launch.recipes import Part, Recipe
from a1_sgl.launch.sizes import Size, cpu_tokens, size_of

_GIB = 2**30


@dataclass(frozen=True)
class Load:
    """What chains need.

    Attributes:
        chains: how many are in flight at once, m.
        length: tokens of the longest, T x (K_d + K_t) and the question. Both models hold all of it.
    """

    chains: int
    length: int

    def __post_init__(self) -> None:
        if self.chains < 1 or self.length < 1:
            raise ConfigError(f"chains in flight and their length are at least 1, not {self.chains} and {self.length}")


@dataclass(frozen=True)
class Fit:
    """How one role's runtimes stand.

    Attributes:
        role: which.
        state: "ok"; "tight" where the KV cache does not hold the load at its longest, so that chains wait or are
            computed again; "wrong" where it cannot be served; "unknown" where nothing is known of the model.
        says: why, in figures.
        change: the smallest change that would make it fit; empty where it does, or nobody knows.
    """

    role: str
    state: Literal["ok", "tight", "wrong", "unknown"]
    says: str
    change: str = ""


def fits(recipe: Recipe, devices: Sequence[Device], load: Load, memory: float) -> list[Fit]:
    """How each role of a recipe stands.

    Args:
        recipe: what is to be served.
        devices: the GPUs.
        load: the chains.
        memory: of the machine, in GiB; what matters where it has no GPU.

    Raises:
        ConfigError: as `lay_out`.
    """
    recipe = lay_out(recipe, devices)
    sizes = {role: size_of(part.model, part.flags, cpu=not devices) for role, part in recipe.parts.items()}
    return [
        _on_gpus(role, part, sizes[role], devices, load)
        if devices
        else _on_cpu(role, recipe.parts, sizes, load, memory)
        for role, part in recipe.parts.items()
    ]


def _on_gpus(role: str, part: Part, size: Size | None, devices: Sequence[Device], load: Load) -> Fit:
    if size is None:
        return Fit(role, "unknown", f"nothing is known of {part.model}, neither from a folder nor from the hub")
    each, smallest = len(part.of(0)), min(devices[gpu].memory for gpu in part.devices)
    share = float(part.memory or part.flags.get("mem-fraction-static") or _static(smallest, each, part))
    where = f"{each} x {smallest:g} GiB" if each > 1 else f"{smallest:g} GiB"
    about = f"{_name(part)}: {_gib(size.weights)} of weights on {where}"
    if size.heads % each:
        fewer = max(number for number in range(1, each) if not size.heads % number)
        return Fit(role, "wrong", f"{about}; its {size.heads} heads cannot be shared out among {each}",
                   f"{fewer} of its devices")  # fmt: skip
    weights, a_token, beside = size.weights / each, size.kv / min(each, size.kv_heads), ""
    if (own := part.flags.get("speculative-draft-model-path")) is not None:
        if (small := size_of(str(own), {})) is None:
            beside = "; the model that it decodes with speculatively is not counted, since nothing is known of it"
        else:
            weights, a_token = weights + small.weights / each, a_token + small.kv / min(each, small.kv_heads)
    has = share * smallest * _GIB
    if weights >= has:
        return Fit(role, "wrong", f"{about}, of which it may take {share:.0%}", _for_weights(size, smallest, part))
    room = int((has - weights) / a_token) * part.workers
    shown = f"{about}, which leaves a KV cache of {room:,} tokens"
    if part.workers > 1:
        shown += f" in {part.workers} workers"
    return _held(role, shown + beside, room, min(load.length, size.context), load, can_halve=not _halved(part))


def _on_cpu(role: str, parts: Mapping[str, Part], sizes: Mapping[str, Size | None], load: Load, memory: float) -> Fit:
    part, size = parts[role], sizes[role]
    if size is None:
        return Fit(role, "unknown", f"nothing is known of {part.model}, neither from a folder nor from the hub")
    held = {name: _cpu_tokens(other) for name, other in parts.items()}
    takes = {name: one.weights + one.kv * held[name] for name, one in sizes.items() if one is not None}
    tokens = held[role]
    all_of_them = sum(takes.values()) / _GIB + 2.5 * len(takes)  # an engine by itself: PyTorch and SGLang, three times
    about = f"{_name(part)}: {_gib(size.weights)} of weights and {_gib(size.kv * tokens)} of KV cache in 32 bits"
    if all_of_them > memory:
        return Fit(role, "wrong", f"{about}; all runtimes need about {all_of_them:.0f} GiB of {memory:.0f}",
                   "smaller models, or fewer tokens in the cache: -- --max-total-tokens 50000")  # fmt: skip
    return _held(role, f"{about}, {tokens:,} tokens", tokens, min(load.length, size.context), load, can_halve=False)


def _cpu_tokens(part: Part) -> int:
    return int(float(part.flags.get("max-total-tokens", cpu_tokens(part.model))))


def _held(role: str, shown: str, room: int, length: int, load: Load, *, can_halve: bool) -> Fit:
    """Whether the cache holds all chains at their longest."""
    need = load.chains * length
    needed = f"{load.chains} chains of {length:,} need {need:,}"
    if need <= room:
        return Fit(role, "ok", f"{shown}; {needed}")
    if room < length:
        return Fit(role, "wrong", f"{shown}; {needed}", f"chains of at most {room:,} tokens; not even one fits")
    change = f"--in-flight {room // length}"
    if can_halve and need <= 2 * room:
        change += ', or "kv-cache-dtype: fp8_e5m2" among its flags, which halves what a token takes'
    return Fit(role, "tight", f"{shown}; {needed}, and what does not fit waits or is computed again", change)


def _for_weights(size: Size, memory: float, part: Part) -> str:
    """More GPUs for a worker, or fewer bits."""
    now = gpus = len(part.of(0))
    while size.weights / gpus >= 0.9 * _static(memory, gpus, part) * memory * _GIB and gpus < 64:
        gpus *= 2
    if gpus > now:
        more = f"{gpus} such GPUs for it (`devices`)"
        fits = size.weights / 2 / now < 0.9 * _static(memory, now, part) * memory * _GIB
        return f'{more}, or "quantization: fp8" among its flags' if fits else more
    return f"a larger share: memory: {min(size.weights / now / memory / _GIB + 0.1, 0.9):.2f}"


def _static(memory: float, gpus: int, part: Part) -> float:
    """The share that SGLang takes by itself for weights and cache.

    What it leaves free, by its rule in 0.5.23 (`memory_hook.py`): half a GiB, 1.5 MiB for each token of a prefill
    chunk, whose length goes by the memory, and an eighth of a GiB for each GPU; on large devices at least
    10 GiB. CUDA graphs come on top and are left out here, which is a GiB or two.
    """
    steps = ((20, 2048), (60, 4096), (160, 8192))
    chunk = next((tokens for most, tokens in steps if memory < most), 16_384)
    free = 0.5 + 1.5 * max(float(part.flags.get("chunked-prefill-size", chunk)), 2048) / 1024 + gpus / 8
    return max(0.0, 1 - max(free, 10.0 if memory > 60 else 0.0) / memory)


def _halved(part: Part) -> bool:
    return str(part.flags.get("kv-cache-dtype", "")).startswith("fp8")


def _name(part: Part) -> str:
    return part.model.rstrip("/").rpartition("/")[2]


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB" if size > _GIB / 10 else f"{size / 2**20:.1f} MiB"
