"""Rows of a benchmark: from a local file or folder, from the hub, or from the cache that an earlier load has left."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from a1_sgl.errors import ConfigError

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
"""Readers of `datasets` by a file's suffix."""


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


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a file.

    Raises:
        ConfigError: the file cannot be read as what its suffix says.
    """
    import datasets

    datasets.disable_progress_bars()
    # A cache of a file would have to be told from one of the file before it was edited; reading anew is quick.
    with tempfile.TemporaryDirectory() as cache:
        try:
            loaded = datasets.load_dataset(
                FORMATS[path.suffix], data_files=str(path), split="train", cache_dir=cache, keep_in_memory=True
            )
            return [dict(row) for row in loaded]
        except Exception as error:  # every reader has its own
            cause = error.__cause__ or error
            raise ConfigError(f"{path} cannot be read as {path.suffix[1:]}: {str(cause).splitlines()[0]}") from error


def download(name: str, config: str | None, split: str, stem: str) -> list[dict[str, Any]]:
    """All rows of a dataset on the hub, or of its cached copy where the hub does not answer.

    Raises:
        ConfigError: neither is there.
    """
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry would be a line
    try:
        return [dict(row) for row in datasets.load_dataset(name, config, split=split)]
    except Exception as error:  # no network, no such dataset, no access: each has errors of its own
        files = ", ".join(stem + suffix for suffix in FORMATS)
        why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise ConfigError(
            f"{name} can be loaded neither from the hub nor from the cache ({why}); with a copy of its "
            f"rows, name the file or its folder with --data PATH ({files})"
        ) from error
