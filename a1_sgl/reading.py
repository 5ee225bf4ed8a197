"""Files that users write, and how they are refused: by name, by line, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from a1_sgl.errors import ConfigError


def text(path: Path) -> str:
    """A file's text; a byte order mark is left out.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8; then the line is named.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: this is not UTF-8; save the file in that encoding") from error


def from_yaml(path: Path, loader: type[yaml.SafeLoader] | type[yaml.BaseLoader] = yaml.SafeLoader) -> Any:
    """What a YAML file says.

    Raises:
        ConfigError: as `text`, or it is no YAML.
    """
    try:
        return yaml.load(text(path), loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
