"""The file that says which runtimes a launcher holds, so that other commands find them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from pydantic import BaseModel

from a1_sgl.errors import ConfigError, why
from a1_sgl.launch.runtimes import Running, alive


class _Launcher(BaseModel):
    pid: int
    born: float


class Ended(BaseModel):
    """That runtimes ended by themselves: when, in seconds since the epoch, how, and the logs that are left, by name."""

    at: float
    what: str
    logs: dict[str, str]


class _Record(BaseModel):
    launcher: _Launcher | None = None
    runtimes: list[Running] = []
    ended: Ended | None = None


class State:
    """The file that says which runtimes a launcher holds, so that other commands find them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "runtimes.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Makes this process the folder's launcher for the length of a ``with`` block; what ends it, kill -9, too.

        Raises:
            ConfigError: another process is, its runtimes starting or running.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "launcher.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"runtimes are already launched here ({self.folder}), or starting; see `a1 launch status`, stop "
                    "them with `a1 launch stop`, or launch others in another folder with --state"
                ) from None
            self.write(())
            yield

    def write(self, running: Sequence[Running]) -> None:
        """Records `running`, with this process as their launcher; none are those that are not healthy yet."""
        me = psutil.Process()
        self._write(_Record(launcher=_Launcher(pid=me.pid, born=me.create_time()), runtimes=list(running)))

    def _write(self, record: _Record) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(record.model_dump_json(indent=2) + "\n")
        draft.replace(self.path)

    def runtimes(self) -> list[Running]:
        """The recorded runtimes, dead ones included; none if there is no file.

        Raises:
            ConfigError: the file cannot be read.
        """
        return self._read().runtimes

    def end(self, what: str) -> None:
        """Records why the runtimes ended; they stay on record, and `ended` says it."""
        files = {path.stem: str(path) for path in (self.folder / "logs").glob("*.log")}
        self._write(self._read().model_copy(update={"ended": Ended(at=time.time(), what=what, logs=files)}))

    @property
    def ended(self) -> Ended | None:
        """Why the runtimes that are on record ended by themselves, if they did."""
        return self._read().ended

    def launcher_alive(self) -> bool:
        """Whether the launcher still runs; its runtimes may still be starting."""
        launcher = self._read().launcher
        return launcher is not None and alive(launcher.pid, launcher.born)

    def launched_by(self, pid: int) -> bool:
        """Whether all runtimes of the launcher with that process id are healthy."""
        record = self._read()
        return bool(record.runtimes) and record.launcher is not None and record.launcher.pid == pid

    def stop(self, timeout: float = 15.0) -> bool:
        """Ends the launcher and with it its runtimes; False if there was none."""
        launcher = self._read().launcher
        if launcher is None or not self.launcher_alive():
            self.clear()
            return False
        # Of them themselves: the launcher takes the record away before it has ended.
        owned = [(launcher.pid, launcher.born), *((one.pid, one.born) for one in self.runtimes())]
        os.kill(launcher.pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while any(alive(*one) for one in owned) and time.monotonic() < deadline:
            time.sleep(0.1)
        if alive(*owned[0]):
            os.kill(launcher.pid, signal.SIGKILL)  # the runtimes notice and end themselves
        self.clear()
        return True

    def clear(self) -> None:
        """Forgets the runtimes."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> _Record:
        try:
            return _Record.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return _Record()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.path} cannot be read ({why(error)}); delete it if no launcher is running"
            ) from error
