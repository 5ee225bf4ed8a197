"""The process in which algebra is done, with a time limit: a pathological answer keeps an algebra system busy for ever.

It is a program of its own, ``python -m a1_sgl.answers.algebra``, so that nothing of the caller's is run there, and no
Ctrl-C reaches it. It starts with the first answer that needs it and ends with this process, however that ends.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from a1_sgl.types import Grade

SECONDS = 10
"""Longest that one comparison may take."""


class Failed(Exception):
    """The comparison did not come to its end; the message says why."""


class Worker:
    """One process that compares answers, one after the other; threads share it. It is replaced where it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def compare(self, answer: str, gold: str, tolerance: str | None) -> Grade:
        """`a1_sgl.answers.graders.compared` with algebra.

        Raises:
            Failed: it took too long, or raised, or its process ended.
        """
        asked = json.dumps([SECONDS, answer, gold, tolerance]).encode() + b"\n"
        with self._lock:
            try:
                said, status = self._ask(asked)
            except BaseException:  # Ctrl-C: what it says to this must not be taken for what it says to the next
                self.close()
                raise
        if said is None:
            raise Failed(f"not finished within {SECONDS} s" if status == -signal.SIGALRM else f"ended with {status}")
        found = json.loads(said)
        if isinstance(found, str):
            raise Failed(found)
        return Grade(*found)

    def close(self) -> None:
        """Ends the process; another starts with the next comparison."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, asked: bytes) -> tuple[bytes | None, int]:
        process = self._process
        if process is None or process.poll() is not None:
            command = [sys.executable, "-P", "-m", "a1_sgl.answers.algebra"]
            process = self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(asked)
            process.stdin.flush()
        if said := process.stdout.readline():
            return said, 0
        self._process = None
        process.communicate()
        return None, process.returncode


WORKER = Worker()
atexit.register(WORKER.close)


def _forked() -> None:
    WORKER.__init__()  # type: ignore[misc]  # the parent's process is the parent's


os.register_at_fork(after_in_child=_forked)
