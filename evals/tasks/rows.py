"""Rows of a benchmark: from a local file or folder, from the hub, or from the cache that an earlier load has left."""

from __future__ import annotations

import csv
import io
import json
import logging
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a1_sgl import reading
from a1_sgl.errors import ConfigError, first_line

MISSING = frozenset(("", "NA", "N/A", "n/a", "NaN", "nan", "None", "NULL", "null"))
"""Cells of a CSV file that say that there is no value: such a file has no other way to."""
_SPACE = " \t\r\n"
_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Row:
    """A row as it is in its file: its values by column, and where it stands, counted from 1.

    One that cannot be read has no values but what is wrong with it, so that it does not hide what is wrong with others.
    """

    place: str
    values: Mapping[str, Any] = field(default_factory=dict)
    wrong: str | None = None


def local(path: Path, stem: str) -> Path:
    """The file to read: `path` itself, or the one in folder `path` that is named `stem`.

    Raises:
        ConfigError: there is none, or it has no format that is read here.
    """
    if path.is_dir():
        found = [one for suffix in FORMATS if (one := path / f"{stem}{suffix}").is_file()]
        if not found:
            raise ConfigError(f"{path} holds no {' and no '.join(stem + suffix for suffix in FORMATS)}")
        return found[0]
    if not path.is_file():
        raise ConfigError(f"no such file or folder: {path}")
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path}: rows are read from {', '.join(FORMATS)}, not {path.suffix or 'a file without one'}")
    return path


def read(path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
        ConfigError: the file cannot be read as what its suffix says; the line is named.
    """
    return list(FORMATS[path.suffix](path))


def download(name: str, config: str | None, split: str, stem: str) -> list[Row]:
    """All rows of a dataset on the hub, or of its cached copy where the hub does not answer.

    Raises:
        ConfigError: neither is there.
    """
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry would be a line
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # no network, no such dataset, no access: each has errors of its own
        files = ", ".join(stem + suffix for suffix in FORMATS)
        why = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(
            f"{name} can be loaded neither from the hub nor from the cache ({why}); with a copy of its "
            f"rows, name the file or its folder with --data PATH ({files})"
        ) from error
    return [Row(f"{name}, row {number}", dict(row)) for number, row in enumerate(loaded, 1)]


def _json(path: Path) -> Iterator[Row]:
    """An object a line, or one list of objects."""
    text = reading.text(path)
    for number, value in _listed(path, text) if text.lstrip(_SPACE).startswith("[") else _lines(text):
        place = f"{path}, line {number}"
        if isinstance(value, Exception):
            yield Row(place, wrong=_told(value))
        elif isinstance(value, dict):
            yield Row(place, value)
        else:
            yield Row(place, wrong=f"a row is an object, its values by column, not {reprlib.repr(value)}")


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    """The values of the lines, or what their reading raised, each with its number."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip(_SPACE):
            try:
                yield number, json.loads(line)
            except _NO_JSON as error:
                yield number, error


def _listed(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The values of a list, each with the line where it begins."""
    try:
        json.loads(text)
    except _NO_JSON as error:
        raise ConfigError(f"{path}, line {getattr(error, 'lineno', 1)}: {_told(error)}") from error
    decoder, at, number, counted = json.JSONDecoder(), text.index("[") + 1, 1, 0
    while True:
        while text[at] in _SPACE + ",":
            at += 1
        if text[at] == "]":
            return
        number, counted = number + text.count("\n", counted, at), at
        value, at = decoder.raw_decode(text, at)
        yield number, value


_NO_JSON = (ValueError, RecursionError)
"""What Python raises of text that is none, or has a number of too many digits, or is too deep."""


def _told(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"this is no JSON: {error.msg}, at column {error.colno}"
    return f"this cannot be read as JSON: {first_line(error)}"


def _csv(path: Path) -> Iterator[Row]:
    """A row a record, after one with the names of the columns. Values are text; see `MISSING`."""
    csv.field_size_limit(_LONGEST_CELL)
    records = csv.reader(io.StringIO(reading.text(path), newline=""), strict=True)
    columns: list[str] = []
    line = 0
    try:
        for cells in records:
            line, place = records.line_num, f"{path}, line {line + 1}"
            if not cells:  # an empty line
                continue
            if not columns:
                columns = cells
                if twice := [name for name in columns if columns.count(name) > 1]:
                    raise ConfigError(f"{place}: two columns are named {twice[0]!r}")
                continue
            if len(cells) != len(columns):
                yield Row(place, wrong=f"this row has {len(cells)} cells, and there are {len(columns)} columns")
                continue
            yield Row(place, {k: None if v in MISSING else v for k, v in zip(columns, cells, strict=True)})
    except csv.Error as error:
        raise ConfigError(f"{path}, line {line + 1}: this is no CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # what Arrow raises is one of these
        raise ConfigError(f"{path} cannot be read as parquet: {first_line(error)}") from error
    for number, values in enumerate(found, 1):
        yield Row(f"{path}, row {number}", values)


FORMATS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json, ".json": _json, ".parquet": _parquet, ".csv": _csv,
}  # fmt: skip
"""Readers by a file's suffix."""
