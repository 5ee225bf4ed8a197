"""Roles: who writes, who verifies, who takes over."""

from __future__ import annotations

from dataclasses import dataclass

from a1_sgl.engine import Engine
from a1_sgl.errors import ConfigError

DRAFT, TARGET, VERIFIER = "draft", "target", "verifier"


@dataclass(frozen=True)
class Role:
    """A part in a program and who plays it. Records and summaries count by the part's name."""

    name: str
    engine: Engine


@dataclass(frozen=True)
class Roles:
    """Who plays which part.

    Attributes:
        writer: writes chunks.
        verifier: scores and rates them.
        successor: takes over; None where nobody does.
    """

    writer: Role
    verifier: Role
    successor: Role | None = None

    def __post_init__(self) -> None:
        names: dict[str, Engine] = {}
        for role in (self.writer, self.verifier, self.successor):
            if role is not None and names.setdefault(role.name, role.engine) is not role.engine:
                raise ConfigError(f"two runtimes play one role, {role.name}: records could not tell them apart")

    @classmethod
    def pair(cls, draft: Engine, target: Engine, verifier: Engine | None = None) -> Roles:
        """The draft writes; the target verifies, or a third runtime does, and takes over."""
        successor = Role(TARGET, target)
        return cls(Role(DRAFT, draft), successor if verifier is None else Role(VERIFIER, verifier), successor)

    @classmethod
    def alone(cls, engine: Engine, name: str = TARGET) -> Roles:
        """One runtime writes and verifies itself, and nobody takes over."""
        role = Role(name, engine)
        return cls(role, role)

    @property
    def all(self) -> tuple[Role, ...]:
        """Each part once, the writer's first."""
        roles = {role.name: role for role in (self.writer, self.verifier, self.successor) if role is not None}
        return tuple(roles.values())

    def named(self, name: str) -> Role:
        """The part of that name.

        Raises:
            ConfigError: nobody plays it.
        """
        for role in self.all:
            if role.name == name:
                return role
        raise ConfigError(f"no runtime plays the {name}; there is {', '.join(role.name for role in self.all)}")
