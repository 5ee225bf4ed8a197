"""Recipes: options of `a1 eval` and `a1 calibrate` in a file, a few lines each.

A recipe says what a command's options are where the command line does not. Besides these it has `about`, and `models`,
which the runtimes must serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from a1_sgl import reading
from a1_sgl.errors import ConfigError

HERE = Path(__file__).parent / "recipes"
RECIPES = tuple(sorted(path.stem for path in HERE.glob("*.yaml")))
"""Names of the recipes that come with the package."""
KEYS = ("about", "models", "task", "split", "questions", "chains", "program", "runtime", "vote", "rate", "chunking",
        "alpha", "gate", "temperature", "top_p", "family", "levels", "seed", "set")  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What a file says, as text: a line about it, models by runtime, options, and the program's parameters."""

    name: str
    about: str
    models: Mapping[str, str]
    options: Mapping[str, str]
    parameters: Mapping[str, str]

    def check(self, served: Mapping[str, str]) -> None:
        """Refuses runtimes that serve other models.

        Raises:
            ConfigError: the first that differs, with the command that serves the right one.
        """
        for name, model in served.items():
            wanted = self.models.get(name)
            if wanted is not None and Path(wanted).name != model:
                raise ConfigError(
                    f"recipe {self.name} is for {name} {wanted}, and the {name} runtime serves {model}; start it with "
                    f"`a1 launch --{name} {wanted}`, or give the options without --recipe"
                )


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, or in that file.

    Raises:
        ConfigError: there is none, or it says something that is no option.
    """
    path = HERE / f"{name}.yaml" if name in RECIPES else Path(name)
    if name not in RECIPES and not name.endswith((".yaml", ".yml")):
        raise ConfigError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}, or a file of yours, such as my.yaml")
    said = reading.from_yaml(path, yaml.BaseLoader)  # text, as on a command line
    if not isinstance(said, dict):
        raise ConfigError(f"{path} is no recipe: it holds no options")
    if unknown := [key for key in said if key not in KEYS]:
        raise ConfigError(f"{path}: a recipe has no {unknown[0]!r}; it has {', '.join(KEYS)}")
    maps = {key: said.pop(key, {}) for key in ("models", "set")}
    if wrong := [key for key, value in maps.items() if not isinstance(value, dict)]:
        raise ConfigError(f"{path}: {wrong[0]} is a mapping, such as {{turns: 15}}")
    if wrong := [key for key, value in said.items() if not isinstance(value, str)]:
        raise ConfigError(f"{path}: {wrong[0]} takes one value")
    return Recipe(path.stem, said.pop("about", ""), maps["models"], said, maps["set"])
