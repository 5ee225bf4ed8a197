"""Processes that end with whoever started them.

Each is a group of its own whose leader holds the reading end of a pipe. When the launcher ends, however it ends, the
pipe closes and the group kills itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

WATCH = "A1_SGL_WATCH_STDIN"


def spawn(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a leader, which has to call `end_with_launcher`. What it says goes to `log`, whose last one is kept."""
    if log.exists():  # that of the last one may be what says why it ended
        log.replace(log.with_suffix(".previous.log"))
    with log.open("wb") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**environment, WATCH: "1"},
            start_new_session=True,
        )


def end_with_launcher() -> None:
    """Has this process's group end when standard input closes, if `spawn` started it."""
    if os.environ.pop(WATCH, None):
        threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks every group to end, then makes it."""
    for process in processes:
        _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + 3
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        # The leader's children may outlive it for a moment; the group is theirs too.
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def free_port(wanted: int | None = None) -> int:
    """A port of this machine that nobody listens on.

    Raises:
        OSError: the one that is wanted is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: one that ended is no obstacle
        probe.bind(("127.0.0.1", wanted or 0))
        return int(probe.getsockname()[1])
