"""Who may ask, and how much: bearer keys and their limits."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from a1_sgl import reading
from a1_sgl.errors import ConfigError, named
from a1_sgl.serve.refusals import Refusal

SHORTEST = 16
"""Characters of a key: what is shorter can be guessed."""


class Entry(BaseModel):
    """One key of a keys file.

    Attributes:
        name: what logs and metrics call whoever has it; the key itself is in neither.
        key: the key.
        per_minute: most requests a minute; as many at once, then evenly. None is no limit.
        at_once: most requests at once.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(min_length=1, max_length=64)]
    key: SecretStr
    per_minute: Annotated[int, Field(ge=1)] | None = None
    at_once: Annotated[int, Field(ge=1)] | None = None


@dataclass
class Owner:
    """Whoever asks with one key, and what of its limits is used up."""

    name: str
    per_minute: int | None = None
    at_once: int | None = None
    running: int = 0
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    _left: float = field(default=0.0, init=False, repr=False)
    _seen: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._left, self._seen = float(self.per_minute or 0), self.clock()

    def check(self) -> None:
        """Counts a request that is about to begin.

        Raises:
            Refusal: 429, with when to come again.
        """
        if self.at_once is not None and self.running >= self.at_once:
            raise Refusal(
                429, f"this key's requests at once are all running: {self.at_once}",
                code="too_many_at_once", retry_after=1,
            )  # fmt: skip
        if self.per_minute is None:
            return
        now = self.clock()
        self._left = min(float(self.per_minute), self._left + (now - self._seen) * self.per_minute / 60)
        self._seen = now
        if self._left < 1:
            raise Refusal(
                429, f"this key may make {self.per_minute} requests a minute", code="rate_limit_exceeded",
                retry_after=(1 - self._left) * 60 / self.per_minute,
            )  # fmt: skip
        self._left -= 1


class Keys:
    """The keys that are taken; without any, everybody is one owner."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """
        Raises:
            ConfigError: two of one name or one key, or a key that is too short or that no header can have.
        """
        self._owners: dict[bytes, Owner] = {}
        names = set()
        for entry in entries:
            key = entry.key.get_secret_value()
            if len(key) < SHORTEST or not (key.isascii() and key.isprintable() and " " not in key):
                raise ConfigError(
                    f"the key of {entry.name} must have at least {SHORTEST} printable ASCII characters and no space, "
                    "such as `openssl rand -hex 24` prints"
                )
            if entry.name in names or (digest := _digest(key)) in self._owners:
                raise ConfigError(f"keys: {entry.name} is there twice, or has another one's key")
            names.add(entry.name)
            self._owners[digest] = Owner(entry.name, entry.per_minute, entry.at_once)
        self._everybody = None if self._owners else Owner("everybody")

    @property
    def open(self) -> bool:
        """Whether anybody may ask."""
        return self._everybody is not None

    @classmethod
    def load(cls, path: Path | None, environment: str | None = None) -> Keys:
        """From a YAML or JSON file, a list of `Entry`, and from text: keys with commas between.

        Raises:
            ConfigError: the file cannot be read, or an entry cannot be used; no key is said.
        """
        entries = []
        if path is not None:
            try:
                entries = TypeAdapter(list[Entry]).validate_python(reading.from_yaml(path))
            except ValidationError as error:
                found = error.errors(include_input=False)[0]
                raise ConfigError(f"{path}: {named({**found, 'input': '...'})}") from None
            if not entries:
                raise ConfigError(f"{path} holds no key; leave --keys out to let everybody ask")
        for number, key in enumerate(filter(None, map(str.strip, (environment or "").split(","))), 1):
            entries.append(Entry(name=f"environment-{number}", key=SecretStr(key)))
        return cls(entries)

    def owner(self, authorization: str | None) -> Owner:
        """Whose request this is.

        Every key is compared, each in constant time, so that how long it takes says nothing.

        Raises:
            Refusal: 401.
        """
        if self._everybody is not None:
            return self._everybody
        scheme, _, key = (authorization or "").partition(" ")
        given, found = _digest(key.strip()), None
        for digest, owner in self._owners.items():
            if hmac.compare_digest(digest, given):
                found = owner
        if scheme.lower() != "bearer" or found is None:
            raise Refusal(
                401, "this server wants a key that it knows: Authorization: Bearer KEY", code="invalid_api_key"
            )
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
