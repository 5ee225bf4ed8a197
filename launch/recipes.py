"""Launch recipes: how a pair is served, in a few lines of YAML.

A recipe has a line `about` it and, for each role, a model and where it runs::

    about: a draft on one GPU, the target tensor-parallel on two
    draft: {model: Qwen/Qwen2.5-7B-Instruct, devices: [0]}
    target: {model: Qwen/QwQ-32B, devices: [1, 2], flags: {context-length: 32768}}

Where no role says its devices, `a1_sgl.launch.layout` shares out those that there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from a1_sgl import reading
from a1_sgl.errors import ConfigError, named
from a1_sgl.launch.gateway import POLICIES

HERE = Path(__file__).parent / "recipes"
RECIPES = tuple(sorted(path.stem for path in HERE.glob("*.yaml")))
"""Names of the recipes that come with the package."""
ROLES = ("draft", "target", "verifier")
_OURS = dict.fromkeys(("model", "model-path"), "model") | {"port": "port"}
_OURS |= dict.fromkeys(("tp", "tp-size", "tensor-parallel-size", "base-gpu-id"), "devices")
_OURS |= dict.fromkeys(("pp-size", "pipeline-parallel-size", "nnodes", "node-rank"), "devices")
_OURS |= dict.fromkeys(("dp", "dp-size", "data-parallel-size"), "workers")
_NUMBERS = ("context-length", "max-total-tokens", "chunked-prefill-size", "mem-fraction-static")
"""Flags that `a1_sgl.launch.fit` reckons with."""


class Part(BaseModel):
    """What serves one role.

    Attributes:
        model: a folder, relative to the recipe's file, or a hub name.
        devices: GPUs by index, shared out among the workers; a worker is tensor-parallel over its own. On a machine
            without a GPU they say nothing.
        workers: how many runtimes serve it; each chain stays with one of them.
        gateway: a policy of SGLang's gateway, which is then put before the workers; None lists them by themselves.
        memory: share of each device's memory for weights and KV cache. None takes what SGLang would; models that
            share a device have to say it.
        port: where the first worker listens, the others after it. None takes what is free.
        flags: SGLang's own server flags, without their dashes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    devices: tuple[StrictInt, ...] = ()
    workers: int = Field(default=1, ge=1, le=64)
    gateway: str | None = None
    memory: float | None = Field(default=None, gt=0, lt=1)
    port: int | None = Field(default=None, ge=1, le=65_000)
    flags: Mapping[str, Any] = {}

    @field_validator("model")
    @classmethod
    def _is_seen_from_home(cls, model: str) -> str:
        return str(Path(model).expanduser()) if model.startswith("~") else model

    @field_validator("flags")
    @classmethod
    def _are_flags(cls, flags: Mapping[str, Any]) -> Mapping[str, Any]:
        for flag, value in flags.items():
            if flag.startswith("-"):
                raise ValueError(f"{flag} is written without its dashes")
            if (ours := _OURS.get(flag.replace("_", "-"))) is not None:
                raise ValueError(f"{flag} is what `{ours}` says")
            if value is None or value is False:
                raise ValueError(
                    f"{flag} takes a value, or true where SGLang's flag has none; leave out what is not set"
                )
            if flag.replace("_", "-") in _NUMBERS:
                _number(flag, value)
        return {flag.replace("_", "-"): value for flag, value in flags.items()}

    @field_validator("gateway")
    @classmethod
    def _is_a_policy(cls, policy: str | None) -> str | None:
        if policy is not None and policy not in POLICIES:
            raise ValueError(f"it is a policy of the gateway, {', '.join(POLICIES)}; not {policy!r}")
        return policy

    @model_validator(mode="after")
    def _is_whole(self) -> Part:
        if self.devices and (min(self.devices) < 0 or len(set(self.devices)) < len(self.devices)):
            raise ValueError(f"devices are different GPUs, counted from 0, such as [0, 1]; not {list(self.devices)}")
        if len(self.devices) % self.workers:
            raise ValueError(f"{len(self.devices)} devices cannot be shared out evenly among {self.workers} workers")
        if self.memory is not None and "mem-fraction-static" in self.flags:
            raise ValueError("memory and the flag mem-fraction-static say the same; give one of them")
        return self

    def of(self, worker: int) -> tuple[int, ...]:
        """The devices of one worker."""
        each = len(self.devices) // self.workers
        return self.devices[worker * each : (worker + 1) * each]

    @property
    def arguments(self) -> tuple[str, ...]:
        """The flags as a command line has them."""
        return tuple(word for name, value in self.flags.items() for word in _words(name, value))


class Recipe(BaseModel):
    """A pair, or a part of one, and how it is served. Made in code it raises pydantic's `ValidationError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "pair"
    about: str = ""
    draft: Part | None = None
    target: Part | None = None
    verifier: Part | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.draft is None and self.target is None:
            raise ValueError("it serves nothing; give it a draft, a target or both")
        unplaced = [role for role, part in self.parts.items() if not part.devices]
        if unplaced and len(unplaced) < len(self.parts):
            raise ValueError(f"{unplaced[0]}: say its devices, as the others do, or leave out all of them")
        taken: dict[int, str] = {}
        for role, part in self.parts.items():
            for port in range(part.port, part.port + part.workers) if part.port else ():
                if (other := taken.setdefault(port, role)) != role:
                    raise ValueError(f"{role}: port {port} is where {other} listens")
        for device in sorted({device for part in self.parts.values() for device in part.devices}):
            shares = {role: part.memory for role, part in self.parts.items() if device in part.devices}
            unsaid = [role for role, share in shares.items() if share is None]
            if unsaid and len(shares) > 1:
                raise ValueError(f"{unsaid[0]}: GPU {device} is shared; say how much of it, such as memory: 0.3")
            if (total := sum(share or 0 for share in shares.values())) > 1:
                raise ValueError(f"memory: the shares of GPU {device} add up to {total:g}, which is more than it has")
        return self

    @property
    def parts(self) -> dict[str, Part]:
        """What serves each role."""
        found = {role: getattr(self, role) for role in ROLES}
        return {role: part for role, part in found.items() if part is not None}

    def changed(self, models: Mapping[str, str], flags: Mapping[str, Sequence[str]]) -> Recipe:
        """The same with other models, by role, and with more flags, as a command line has them.

        Raises:
            ConfigError: it serves no such role, or a flag is not to be given.
        """
        parts: dict[str, Any] = {role: part.model_dump() for role, part in self.parts.items()}
        for role in (*models, *(role for role, more in flags.items() if more)):
            if role not in parts:
                raise ConfigError(f"recipe {self.name} serves no {role}; it serves {' and '.join(parts)}")
        for role, model in models.items():
            parts[role]["model"] = model
        for role, more in flags.items():
            if more:
                parts[role]["flags"] = {**parts[role]["flags"], **_parsed(more)}
        return _checked({"name": self.name, "about": self.about, **parts}, f"recipe {self.name}")


def recipe_of(models: Mapping[str, str]) -> Recipe:
    """A recipe for models by role, which leaves it to `a1_sgl.launch.layout` where they go.

    Raises:
        ConfigError: none of them is a draft or a target.
    """
    return _checked({role: {"model": model} for role, model in models.items()}, "these models")


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, or in that file; folders of models in it are as seen from here.

    Raises:
        ConfigError: there is none, or it says something that cannot be.
    """
    path = (HERE / f"{name}.yaml" if name in RECIPES else Path(name)).resolve()
    if name not in RECIPES and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"unknown launch recipe {name!r}; known: {', '.join(RECIPES)}, or a file of yours, such as my.yaml"
        )
    said = reading.from_yaml(path)
    if not isinstance(said, dict):
        raise ConfigError(f"{path} is no launch recipe: it is a mapping with a draft, a target or both")
    recipe = _checked({"name": path.stem, **said}, str(path))
    folders = {role: path.parent / part.model for role, part in recipe.parts.items()}
    return recipe.changed({role: str(place.resolve()) for role, place in folders.items() if place.exists()}, {})


def _checked(said: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(said)
    except ValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(map(_told, error.errors()))}") from error


def _told(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        fields = Part.model_fields if len(error["loc"]) > 1 else Recipe.model_fields
        return f"{'.'.join(map(str, error['loc']))} is nothing that a recipe has; here it has {', '.join(fields)}"
    return named(error)


def _number(flag: str, value: Any) -> None:
    try:
        float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{flag} takes a number, not {value!r}") from None


def _words(name: str, value: Any) -> Iterator[str]:
    yield f"--{name}"
    if isinstance(value, list):
        yield from map(str, value)
    elif isinstance(value, dict):
        yield json.dumps(value)
    elif value is not True:
        yield str(value)


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    """A command line's flags as a recipe has them.

    Raises:
        ConfigError: a value comes before any flag.
    """
    found: dict[str, list[str]] = {}
    for word in words:
        flag, equals, value = word.partition("=")
        if word.startswith("--"):
            values = found.setdefault(flag.removeprefix("--").replace("_", "-"), [])
            values[:] = [value] if equals else []
            latest = values
        elif not found:
            raise ConfigError(
                f"{word!r} is no flag of SGLang's server; flags begin with --, such as --context-length 8192"
            )
        else:
            latest.append(word)
    return {flag: True if not values else values[0] if len(values) == 1 else values for flag, values in found.items()}
