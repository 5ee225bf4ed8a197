"""Which programs are models, by what names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from a1_sgl.errors import ConfigError
from a1_sgl.programs import NAMES, Program, find_program
from a1_sgl.serve.refusals import Refusal
from a1_sgl.session import Roles
from a1_sgl.voting import VOTES

ALONE = ("draft", "target")


@dataclass(frozen=True)
class Model:
    """A program as it is asked for.

    Attributes:
        id: what a request calls it: ``draft`` and ``target``, each of the two by itself in one pass; a program's name;
            or that and ``+`` and a vote, such as ``a1+majority``: as many chains as the program writes, and their vote.
        program: the program.
        runtime: the role that it runs on by itself; None for both.
        chains: how many it writes unless told otherwise.
        vote: how they make an answer; None is the program's way.
    """

    id: str
    program: Program
    runtime: str | None
    chains: int
    vote: str | None = None

    @property
    def about(self) -> str:
        """A line about it."""
        if self.id in ALONE:
            return f"The {self.id} alone, in one pass."
        return self.program.about + (f" {self.chains} chains, by {self.vote} vote." if self.vote else "")

    def shown(self, made: int) -> dict[str, Any]:
        """As ``/v1/models`` lists it."""
        return {"id": self.id, "object": "model", "created": made, "owned_by": "a1-sgl", "about": self.about}


class Models:
    """All that can be asked for on these runtimes."""

    def __init__(self, roles: Roles) -> None:
        self._made = int(time.time())
        names = {role.name for role in roles.all}
        self._models = {one.id: one for one in _models(names, roles.successor is not None)}

    def find(self, name: str) -> Model:
        """The model of that name.

        Raises:
            Refusal: there is none.
        """
        if name not in self._models:
            known = ", ".join(one for one in self._models if "+" not in one)
            raise Refusal(
                404, f"there is no model {name[:100]!r}; there are {known}, each also with + and a vote, such as "
                "self_consistency+majority", param="model", code="model_not_found",
            )  # fmt: skip
        return self._models[name]

    def known(self, name: str) -> None:
        """Refuses a name in a file of defaults that is no model's.

        Raises:
            ConfigError: it is none.
        """
        if name not in self._models:
            raise ConfigError(f"defaults: there is no model {name!r}; there are {', '.join(self._models)}")

    def listed(self) -> dict[str, Any]:
        """As ``/v1/models`` has them."""
        return {"object": "list", "data": [self.shown(name) for name in self._models]}

    def shown(self, name: str) -> dict[str, Any]:
        """One of them. Errors as in `find`."""
        return self.find(name).shown(self._made)


def _models(roles: set[str], pair: bool) -> Iterator[Model]:
    for role in ALONE:
        if role in roles:
            yield Model(role, find_program("direct"), role, 1)
    for name in NAMES:
        program = find_program(name)
        if program.takes_over and not pair:
            continue
        runtime = None if program.takes_over else "target" if "target" in roles else "draft"
        # A program whose chains go their own ways is one chain, which streams, unless several are asked for.
        yield Model(name, program, runtime, program.samples if program.joint or program.vote != "majority" else 1)
        for vote in VOTES:
            yield Model(f"{name}+{vote}", program, runtime, max(program.samples, 4), vote)
