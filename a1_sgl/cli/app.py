"""What every command has beside its own options: ``--options FILE`` and ``--verbose``."""

from __future__ import annotations

import inspect
import logging
import os
import tomllib
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleDimensions

from a1_sgl.errors import ConfigError

SET = "a1_sgl.set"
"""Where a context keeps the parameters of a program that options files give."""
FILES = "a1_sgl.files"
"""Where it keeps which file gave an option, by the parameter's name."""
_WIDE = 10_000
_LOG = logging.getLogger("a1_sgl")


class Screen(Console):
    """A console as wide as its terminal; what goes elsewhere is never cut or folded, unless COLUMNS says how wide."""

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        if self.is_terminal or "COLUMNS" in os.environ:
            return super().size
        return ConsoleDimensions(_WIDE, 25)

    @size.setter
    def size(self, new: tuple[int, int]) -> None:
        Console.size.fset(self, new)  # type: ignore[attr-defined]


class App(typer.Typer):
    """Commands that all have the options below."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """As Typer's."""
        register = super().command(name, **settings)
        return lambda function: register(_shared(function))

    def callback(self, **settings: Any) -> Callable[[Any], Any]:
        """As Typer's."""
        register = super().callback(**settings)
        return lambda function: register(_shared(function))


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    own, extra = (inspect.signature(one, eval_str=True).parameters for one in (command, _options))

    @wraps(command)
    def wrapper(**given: Any) -> Any:
        return command(**{name: value for name, value in given.items() if name not in extra})

    keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own.values(), *extra.values())]
    wrapper.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {one.name: one.annotation for one in keyword}
    return wrapper


# --- talking --------------------------------------------------------------------------------------------------


class Verbose(logging.StreamHandler):  # type: ignore[type-arg]
    """Shows what the library logs, with the tracebacks of what went wrong, on stderr."""


def verbose() -> bool:
    """Whether that is asked for."""
    return any(isinstance(one, Verbose) for one in _LOG.handlers)


def _talk(value: bool) -> bool:
    if value and not verbose():
        handler = Verbose()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        _LOG.addHandler(handler)
        _LOG.setLevel(logging.DEBUG)
    return value


def quiet() -> None:
    """Ends that; a process may run several commands."""
    for one in [one for one in _LOG.handlers if isinstance(one, Verbose)]:
        _LOG.removeHandler(one)
        _LOG.setLevel(logging.NOTSET)


# --- a file of options ----------------------------------------------------------------------------------------


def _from_files(context: typer.Context, given: list[Path] | None) -> list[Path] | None:
    """Makes what the files say the defaults of the command's options; the command line goes before them."""
    for file in given or ():
        _from_file(context, file)
    return given


def _from_file(context: typer.Context, file: Path) -> None:
    names = {
        flag.removeprefix("--"): one
        for one in context.command.params
        for flag in one.opts
        if flag.startswith("--") and flag not in ("--options", "--help", "--verbose")
    }
    given = _read(file)
    if unknown := [key for key in given if key not in names]:
        raise ConfigError(
            f"{file}: `{context.command_path}` has no option {', '.join(map(repr, unknown))}; it has {', '.join(names)}"
        )
    defaults: dict[str, Any] = {}
    of = context.meta.setdefault(FILES, {})
    for key, value in given.items():
        option = names[key]
        if option.name in of:
            raise ConfigError(f"{of[option.name]} and {file} both say {key}; leave it out of one of them")
        of[option.name] = file
        many, flag = getattr(option, "multiple", False) or option.nargs != 1, getattr(option, "is_flag", False)
        if key == "set" and isinstance(value, dict):
            value = [f"{name}={_text(one)}" for name, one in value.items()]
        elif many and not isinstance(value, list):
            value = [value]
        if flag is not isinstance(value, bool):
            raise ConfigError(f"{file}: {key} takes {'true or false' if flag else 'a value'}, not {value!r}")
        if value is None or isinstance(value, dict) or (isinstance(value, list) and not many):
            raise ConfigError(f"{file}: {key} takes {'values' if many else 'one value'}, not {value!r}")
        if key == "set":
            context.meta[SET] = once([str(one) for one in value], f"{file}: set")
        else:
            defaults[str(option.name)] = [str(one) for one in value] if many else value if flag else str(value)
    context.default_map = {**(context.default_map or {}), **defaults}


def once(pairs: list[str], where: str) -> list[str]:
    """These ``NAME=VALUE``; a ConfigError if two are of one name."""
    named: dict[str, str] = {}
    for pair in pairs:
        name = pair.partition("=")[0]
        if name in named:
            raise ConfigError(f"{where} gives one parameter twice, {named[name]} and {pair}; leave one of them out")
        named[name] = pair
    return pairs


def _text(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        text = file.read_text()
        said = tomllib.loads(text) if file.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"--options {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, yaml.YAMLError, ValueError) as error:
        kind = "TOML" if file.suffix == ".toml" else "YAML"
        raise ConfigError(f"--options {file} is no {kind}: {' '.join(str(error).split())}") from error
    if not isinstance(said, dict):
        raise ConfigError(f"--options {file} holds no options; it takes lines such as `alpha: 0.25`")
    return {str(key): value for key, value in said.items()}


VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_talk, is_eager=True, help="Show tracebacks and what is logged.")
]


def _options(
    options: Annotated[
        list[Path] | None,
        typer.Option(
            "--options", metavar="FILE", callback=_from_files, is_eager=True,
            help="Options from a YAML or TOML file, by their names; those given here go before them. Repeatable.",
        ),
    ] = None,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """What is shared."""
