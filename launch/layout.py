"""Where the runtimes of a recipe go: GPUs, shares of their memory, and the order in which they start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from a1_sgl.errors import ConfigError
from a1_sgl.launch.devices import Device
from a1_sgl.launch.gateway import Gateway
from a1_sgl.launch.processes import free_port
from a1_sgl.launch.recipes import ROLES, Part, Recipe
from a1_sgl.launch.runtimes import Spec
from a1_sgl.launch.sizes import Size, size_of

APART = 2.0
"""GiB of a GPU that each runtime on it takes besides weights and KV cache: its CUDA context, graphs and activations."""
MOST = 0.88
"""Most of a GPU's memory that models which share it are given together."""
_GIB = 2**30
_ORDER = ("target", "verifier", "draft")
_WEIGHTS = ("safetensors", "bin", "pt", "gguf")


def lay_out(recipe: Recipe, devices: Sequence[Device]) -> Recipe:
    """The recipe on these GPUs; one that says its devices, or is for none, stays as it is.

    With one GPU for everything the models share it: each has room for its weights, and the rest is shared out so that
    all hold equally many tokens. With more, draft and verifier have one for each worker, and the target has the rest:
    as many for each worker as are a power of two by which its heads can be shared out.

    Raises:
        ConfigError: it names a GPU that is not there, there are too few, or the weights do not fit on the one.
    """
    if not devices:
        return recipe
    named = sorted({device for part in recipe.parts.values() for device in part.devices})
    if named:
        if named[-1] >= len(devices):
            raise ConfigError(
                f"recipe {recipe.name} uses GPU {named[-1]}, and there are {len(devices)}, counted from 0; say other "
                "`devices` in a recipe of yours, or none, to have it laid out"
            )
        return recipe
    workers = sum(part.workers for part in recipe.parts.values())
    if len(devices) == 1 and workers == len(recipe.parts):
        return _sharing(recipe, devices[0])
    if len(devices) < workers:
        raise ConfigError(
            f"recipe {recipe.name} has {workers} workers in all, and there are {len(devices)} GPUs; say the `devices` "
            "that each role shares, and `memory`, in a recipe of yours"
        )
    free, placed = 0, {}
    for role, part in recipe.parts.items():  # the draft first, so that it has GPU 0
        others = sum(one.workers for name, one in recipe.parts.items() if name != role)
        each = _tensor_parallel(part, (len(devices) - others) // part.workers) if role == "target" else 1
        placed[role] = tuple(range(free, free + each * part.workers))
        free += each * part.workers
    return _with(recipe, {role: {"devices": mine} for role, mine in placed.items()})


def specs(recipe: Recipe, devices: Sequence[Device]) -> list[Spec]:
    """What is to be started for a recipe on a machine with these GPUs.

    Runtimes that share a GPU start one after the other, those on more GPUs first and then the large models, since
    SGLang takes its ``--mem-fraction-static`` of what is free when it starts (0.5.23, `kv_cache_configurator.py`): the
    second's share is of what the first one left, `APART` included.

    Raises:
        ConfigError: as `lay_out`; or the shares leave too little, or different amounts on the GPUs of one runtime.
    """
    recipe = lay_out(recipe, devices)
    for one in recipe.parts.values():
        _is_there(one)
    found: dict[str, Spec] = {}
    taken = [0.0] * len(devices)
    homes: dict[int, list[str]] = {}
    for role, part in sorted(
        recipe.parts.items(), key=lambda item: (-len(item[1].devices) / item[1].workers, _ORDER.index(item[0]))
    ):
        ports = [part.port + worker if part.port else None for worker in range(part.workers)]
        if part.gateway is not None:
            free = _free_ports(part.workers)  # it has to be told
            ports = [port or another for port, another in zip(ports, free, strict=True)]
            workers = tuple(f"{role}-{worker}" for worker in range(part.workers))
            urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
            found[role] = Gateway(f"{role}-gateway", role=role, after=workers, urls=urls, policy=part.gateway)
        for worker, port in enumerate(ports):
            name = role if part.workers == 1 and part.gateway is None else f"{role}-{worker}"
            flags, mine = part.arguments, part.of(worker) if devices else ()
            if part.gateway is not None and "stream-interval" not in part.flags:
                flags = ("--stream-interval", "128", *flags)  # the gateway drops that wish from requests
            if len(mine) > 1:
                flags = ("--tp-size", str(len(mine)), *flags)
            if part.memory is not None and mine:
                flags = (
                    "--mem-fraction-static",
                    f"{_of_what_is_left(name, part.memory, mine, taken, devices):.3f}",
                    *flags,
                )
            after = tuple(dict.fromkeys(other for gpu in mine for other in homes.get(gpu, ())))
            ids = tuple(devices[gpu].id for gpu in mine)
            own = role if part.gateway is None else f"{role} worker"  # the gateway is found by the role
            found[name] = Spec(name, part.model, flags, role=own, devices=ids, after=after, port=port)
            for gpu in mine:
                homes.setdefault(gpu, []).append(name)
                taken[gpu] += (part.memory or 1.0) * devices[gpu].memory + APART
    return sorted(found.values(), key=lambda spec: ROLES.index(spec.name.partition("-")[0]))


def _free_ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return sorted(found)


def _of_what_is_left(
    name: str, share: float, mine: Sequence[int], taken: Sequence[float], devices: Sequence[Device]
) -> float:
    """A share of a GPU's memory as one of what those that start before leave of it."""
    left = [devices[gpu].memory - taken[gpu] for gpu in mine]
    if max(left) > 1.1 * min(left):  # SGLang refuses to start on such (0.5.23, `bootstrap.py`)
        raise ConfigError(
            f"{name}: its GPUs {', '.join(map(str, mine))} would have different amounts of memory left, which tensor "
            "parallelism does not take; let those that share GPUs share all of them, or use others"
        )
    wanted, has = share * devices[mine[0]].memory, min(left)
    if wanted + APART > has:
        raise ConfigError(
            f"{name}: a share of {share:g} is {wanted:.1f} GiB, and of GPU {mine[0]} {max(0.0, has):.1f} GiB are left, "
            f"of which {APART:g} GiB go to its CUDA context and graphs; make the shares smaller"
        )
    return wanted / has


def _is_there(part: Part) -> None:
    """Refuses what looks like a folder and is none, and a folder without weights, before anything is started."""
    folder = Path(part.model)
    if not folder.is_dir():
        looks = part.model.startswith((".", "/")) or part.model.count("/") > 1
        if looks and not folder.exists() and "://" not in part.model:
            raise ConfigError(
                f"there is no folder {part.model}; a model is a folder or a hub name such as Qwen/QwQ-32B"
            )
        return
    if part.flags.get("load-format") != "dummy" and not any(any(folder.glob(f"*.{kind}")) for kind in _WEIGHTS):
        raise ConfigError(
            f"{folder} holds no weights (no file *.{', *.'.join(_WEIGHTS)}); copy the whole model, or serve it without "
            "them, with the flag --load-format dummy"
        )


def _sharing(recipe: Recipe, device: Device) -> Recipe:
    """All on GPU 0."""
    said = {role: part.memory for role, part in recipe.parts.items()}
    if len(said) > 1 and any("mem-fraction-static" in part.flags for part in recipe.parts.values()):
        raise ConfigError(
            "mem-fraction-static is worked out where models share a GPU, since it is of what is free when a server "
            "starts; say `memory` for each role in a recipe of yours, or leave it out"
        )
    if all(said.values()) or len(said) == 1:
        return _with(recipe, {role: {"devices": (0,)} for role in said})
    sizes = {role: size_of(part.model, part.flags) for role, part in recipe.parts.items()}
    if unknown := [role for role, size in sizes.items() if size is None]:
        raise ConfigError(
            f"{recipe.parts[unknown[0]].model} is not here and cannot be looked up, so nobody knows how the "
            f"{device.name} is to be shared; say `memory` for each role in a recipe of yours, or use a local folder"
        )
    known: dict[str, Size] = {role: size for role, size in sizes.items() if size is not None}
    share = min(MOST, 1 - APART * len(known) / device.memory)
    rest = share * device.memory * _GIB - sum(size.weights for size in known.values())
    if rest <= 0:
        weights = ", ".join(f"{role} {size.weights / _GIB:.1f} GiB" for role, size in known.items())
        raise ConfigError(
            f"the weights do not fit on one {device.name} ({weights}; {share:.0%} of {device.memory:g} GiB are for "
            "weights and KV cache); take smaller models, a quantised target, or another GPU"
        )
    a_token = sum(size.kv for size in known.values())
    shares = {role: (size.weights + rest * size.kv / a_token) / _GIB / device.memory for role, size in known.items()}
    return _with(recipe, {role: {"devices": (0,), "memory": round(share, 3)} for role, share in shares.items()})


def _with(recipe: Recipe, changes: dict[str, dict[str, Any]]) -> Recipe:
    parts = {role: part.model_copy(update=changes[role]) for role, part in recipe.parts.items()}
    return recipe.model_copy(update=parts)


def _tensor_parallel(part: Part, most: int) -> int:
    size, each = size_of(part.model, part.flags), int(1 << (most.bit_length() - 1))
    while size is not None and size.heads % each:
        each //= 2
    return each
