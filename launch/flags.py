"""SGLang's own parser, asked whether it takes the flags of a server that is to be started."""

from __future__ import annotations

import argparse
from functools import cache
from typing import NoReturn

from a1_sgl.errors import ConfigError
from a1_sgl.launch.cpu_engine import enable
from a1_sgl.launch.runtimes import Spec


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


@cache
def _parser() -> _Parser:
    enable()
    from sglang.srt.server_args import ServerArgs

    parser = _Parser(prog="sglang", add_help=False, allow_abbrev=False)  # what is ours has one name
    ServerArgs.add_cli_args(parser)
    return parser


def check(spec: Spec) -> None:
    """Refuses flags that the installed SGLang does not take; importing it takes seconds.

    Raises:
        ConfigError: in the parser's own words.
    """
    try:
        _parser().parse_args(["--model-path", spec.model, *spec.flags])
    except ConfigError as error:
        from sglang import __version__

        raise ConfigError(f"{spec.name}: SGLang {__version__} does not take its flags: {error}") from error
