"""How commands find runtimes and speak to them: options that several share, and the connection."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from a1_sgl.cli.common import STATE, StateDir
from a1_sgl.errors import ConfigError, first_line
from a1_sgl.launch.state import State

if TYPE_CHECKING:
    from a1_sgl.engine import Settings
    from a1_sgl.session import Backend


@dataclass(frozen=True)
class Runtimes:
    """Where the runtimes of a command are and how it speaks to them.

    Attributes:
        given: URLs by role, as the command line has them.
        state: folder where `a1 launch` notes its runtimes.
        in_flight: most chains at once.
        deadline: seconds that a chain may take; None gives it all the time it takes.
    """

    given: Mapping[str, Sequence[str] | None]
    state: Path
    in_flight: int
    deadline: float | None
    patience: float
    silence: float
    api_key: str | None
    api_key_file: Path | None
    ca_file: Path | None
    insecure: bool

    def __post_init__(self) -> None:
        if self.in_flight < 1:
            raise ConfigError(f"--in-flight must be at least 1, not {self.in_flight}")
        for name in ("deadline", "patience", "silence"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ConfigError(f"--{name} must be above 0 s, not {value:g}")

    def urls(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Where the named runtimes listen: as given, else as launched.

        Raises:
            ConfigError: neither.
        """
        launched = self._launched
        found = {name: list(self.given.get(name) or launched.get(name) or ()) for name in names}
        if missing := [name for name, urls in found.items() if not urls]:
            ended = "; those that were ended by themselves, see `a1 launch status`" if State(self.state).ended else ""
            raise ConfigError(
                f"no {' and no '.join(missing)} runtime is launched here ({self.state}/runtimes.json){ended}; start a "
                f"pair with `a1 launch pocket --detach`, or name yours with --{missing[0]} URL"
            )
        return found

    @property
    def _launched(self) -> dict[str, list[str]]:
        """URLs of what was launched here and lives, by role."""
        found: dict[str, list[str]] = {}
        for one in State(self.state).runtimes():
            if one.alive():
                found.setdefault(one.role, []).append(one.url)
        return found

    @property
    def settings(self) -> Settings:
        """How to speak to them.

        Raises:
            ConfigError: a file that cannot be read, or options that contradict each other.
        """
        from pydantic import SecretStr

        from a1_sgl.engine import Settings

        if self.insecure and self.ca_file is not None:
            raise ConfigError("--insecure trusts whoever answers, --ca-file only whom it names; give one of them")
        if self.ca_file is not None:
            _check_certificates(self.ca_file)
        key = self._key()
        return Settings(
            silence=self.silence, patience=self.patience, api_key=SecretStr(key) if key else None,
            verify=not self.insecure if self.ca_file is None else str(self.ca_file),
        )  # fmt: skip

    @contextmanager
    def connect(self, runtime: str | None) -> Iterator[Backend]:
        """The pair, or the one runtime that is named, for the length of a ``with`` block."""
        where = self.urls((runtime,) if runtime else ("draft", "target"))
        own = not (self.given.get("draft") or self.given.get("target"))  # a launched verifier is of the launched pair
        if runtime is None and (verifier := self.given.get("verifier") or (own and self._launched.get("verifier"))):
            where["verifier"] = list(verifier)
        from a1_sgl.session import Backend

        with Backend.connect(
            where.get("draft"),
            where.get("target"),
            verifier=where.get("verifier"),
            in_flight=self.in_flight,
            deadline=self.deadline,
            settings=self.settings,
        ) as backend:
            yield backend

    def _key(self) -> str | None:
        """The key itself; neither it nor where it came from is recorded, and no error says what it is."""
        key, where = self.api_key, "--api-key"
        if key and self.api_key_file is not None:
            raise ConfigError(
                "--api-key and --api-key-file (or A1_API_KEY and A1_API_KEY_FILE) both hold a key; give one of them"
            )
        if self.api_key_file is not None:
            where = f"--api-key-file {self.api_key_file}"
            try:
                key = self.api_key_file.read_text().strip()
            except (OSError, ValueError) as error:
                raise ConfigError(f"{where} cannot be read: {first_line(error)}") from None
            if not key:
                raise ConfigError(f"{where} is empty; it must hold the key, or be left out")
        if key and not (key.isascii() and key.isprintable()):
            raise ConfigError(f"{where} is no key: it has characters that a header cannot have, or several lines")
        return key


def _check_certificates(path: Path) -> None:
    try:
        ssl.create_default_context(cafile=str(path))
    except FileNotFoundError:
        raise ConfigError(f"--ca-file: there is no file {path}") from None
    except OSError as error:  # what ssl raises is one too
        raise ConfigError(f"--ca-file {path} holds no certificates in PEM form: {first_line(error)}") from None


def _options(
    draft: Annotated[
        list[str] | None,
        typer.Option(
            help="URL of the draft runtime; several are a fleet of one model. [default: the launched one]",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="URL of the target runtime, or several. [default: the launched one]"),
    ] = None,
    verifier: Annotated[
        list[str] | None,
        typer.Option(help="URL of a third runtime that verifies. [default: the target does]"),
    ] = None,
    state: StateDir = STATE,
    in_flight: Annotated[int, typer.Option(help="Most chains in flight at once.")] = 64,
    deadline: Annotated[
        float | None,
        typer.Option(help="Seconds after which a chain is given up. [default: never]"),
    ] = None,
    patience: Annotated[float, typer.Option(help="Seconds for which a runtime that is down is waited for.")] = 300.0,
    silence: Annotated[
        float,
        typer.Option(help="Seconds without a sign of life after which a request is repeated."),
    ] = 180.0,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="A1_API_KEY", help="Key that the runtimes want; never recorded."),
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(envvar="A1_API_KEY_FILE", help="File that holds it.")] = None,
    ca_file: Annotated[Path | None, typer.Option(help="Certificates to trust besides the system's.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not verify TLS certificates.")] = False,
) -> Runtimes:
    given = {"draft": draft, "target": target, "verifier": verifier}
    return Runtimes(
        given, state, in_flight, deadline, patience, silence, api_key, api_key_file, ca_file, insecure
    )  # fmt: skip


def takes_runtimes(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options above, in the place of its parameter `runtimes`."""
    options = inspect.signature(_options, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @wraps(command)
    def wrapper(**given: Any) -> None:
        runtimes = _options(**{name: given.pop(name) for name in options})
        command(**given, runtimes=runtimes)

    parameters = [one for name, one in own.items() if name != "runtimes"] + list(options.values())
    # By name, so that none has to have a default because another one before it has.
    keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    wrapper.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {one.name: one.annotation for one in keyword}
    return wrapper
