"""Files of a record: a lock, lines that are whole or not there, and files that are replaced in one piece."""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, RootModel

from a1_sgl.errors import ConfigError, RecordFault, why

log = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system says that has no locks, as some network ones have not."""


class Lock:
    """Holds a folder for one writer. The kernel gives it back when the process ends, however it ends.

    Raises:
        ConfigError: someone else holds it.
        OSError: the folder cannot be written.
    """

    NAME = "lock"

    def __init__(self, folder: Path) -> None:
        self._file = (folder / self.NAME).open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            pid, _, host = self._file.read().strip().partition(" ")
            self._file.close()
            who = f"another process ({pid} on {host})" if pid else "another process"
            if pid == str(os.getpid()) and host == platform.node():
                who = f"this process ({pid}), elsewhere in it,"
            raise ConfigError(
                f"{who} is writing to {folder}; let it end, or stop it, and give the same command again, or use "
                "another folder"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                self._file.close()
                raise
            log.warning("%s cannot be locked (%s): see that no two processes write to it", folder, error.strerror)
        with suppress(OSError):  # on a full disk it is nameless, and holds all the same
            self._file.truncate(0)
            self._file.write(f"{os.getpid()} {platform.node()}\n")
            self._file.flush()

    def release(self) -> None:
        """Lets the next writer in. The file stays: one that has it open must not hold what nobody else can see."""
        with suppress(OSError):
            self._file.close()


class Appender:
    """A file that grows by whole lines, open from its first one on. What fails half way is taken back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: io.FileIO | None = None
        self._size = self._before = 0
        self._torn = False

    def write(self, data: bytes) -> None:
        """Adds `data`, which ends a line, in one write.

        Raises:
            OSError: it could not be added; the file is as it was before.
        """
        if self._file is None:
            self._file = io.FileIO(self.path, "a")
            self._size = self._before = os.fstat(self._file.fileno()).st_size
        if self._torn:
            self._cut()
        self._before = self._size
        view = memoryview(data)
        try:
            while view:  # a disk that fills up takes a part first, and complains at the rest
                view = view[self._file.write(view) or 0 :]
        except BaseException:
            self._torn = True
            with suppress(OSError):
                self._cut()
            raise
        self._size += len(data)

    def take_back(self) -> None:
        """Undoes the last `write`."""
        self._size, self._torn = self._before, True
        with suppress(OSError):
            self._cut()

    def close(self) -> None:
        """Hands everything to the disk; the next `write` opens the file again."""
        if self._file is not None:
            with suppress(OSError):
                os.fsync(self._file.fileno())
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _cut(self) -> None:
        assert self._file is not None
        self._file.truncate(self._size)
        self._torn = False


def read_lines(path: Path) -> list[bytes]:
    """Whole lines; a last one without its newline was torn by a crash, if need be within a character."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def parse(path: Path, model: type[M]) -> Iterator[M]:
    """The lines of a file.

    Raises:
        ConfigError: one is no `model`; the file and the line are named.
    """
    for number, line in enumerate(read_lines(path), 1):
        try:
            yield model.model_validate_json(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: this cannot be read: {why(error)}") from error


def mend(path: Path) -> None:
    """Cuts off a torn last line."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def replace(path: Path, data: bytes) -> None:
    """Writes a file so that a reader, or whoever finds it after a crash, sees the old one or the new one."""
    draft = path.with_name(path.name + ".tmp")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def lines(records: Iterable[BaseModel]) -> bytes:
    """A line for each."""
    return "".join([record.model_dump_json() + "\n" for record in records]).encode()


def load(path: Path, model: type[M]) -> M:
    """The whole of a JSON file.

    Raises:
        ConfigError: it cannot be read, or is no `model`; the file is named.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {why(error)}") from error


class Mapped(RootModel[dict[str, Any]]):
    """A JSON object of any content."""


def fault(path: Path, error: OSError, kept: int) -> RecordFault:
    """The error of a file that cannot be written."""
    return RecordFault(
        f"{path} cannot be written: {error.strerror or error}; see to that (free space, or a limit on the size of "
        f"files) and give the same command again: {kept} finished chains are kept"
    )
