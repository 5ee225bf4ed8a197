"""Python as a process of its own: `start(...)` begins one, `run(...)` waits for its end.

It is forked from a process that has imported SGLang and what commands import, which is ten seconds of a core, and these
tests begin some forty. Otherwise it is a process like any other: it has its own signals, limits, files and group. What
a start or an interpreter's end does by itself is not to be tested with these.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path

_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["a1_sgl.session.group", "a1_sgl.evals.runner", "a1_sgl.evals.report", "a1_sgl.cli.eval", "a1_sgl.cli.calibrate"]
)


class Started:
    """A process that `start` began; what it has is as `subprocess.Popen` has it."""

    def __init__(self, *given: object) -> None:
        self._process = _FORKS.Process(target=_become, args=given)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    *command: object,
    out: Path | str = os.devnull,
    err: Path | str = os.devnull,
    cwd: Path | None = None,
    limits: Mapping[int, int] | None = None,
) -> Started:
    """A process of what would stand after `python` in a shell; `limits` are for `resource.setrlimit`."""
    return Started(
        [str(one) for one in command], dict(os.environ), str(out), str(err), cwd or Path.cwd(), dict(limits or {})
    )


def run(*command: object, cwd: Path | None = None, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    """The same when it has ended, with what it said."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder) / name for name in ("out", "err"))
        process = start(*command, out=out, err=err, cwd=cwd)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, status, out.read_text(), err.read_text())


def _become(command: list[str], env: dict[str, str], out: str, err: str, cwd: Path, limits: dict[int, int]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, (path, mode) in enumerate(((os.devnull, "rb"), (out, "ab"), (err, "ab"))):
        with open(path, mode) as file:
            os.dup2(file.fileno(), number)
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for what, most in limits.items():
        resource.setrlimit(what, (most, most))
    match command:
        case ["-m", module, *arguments]:
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.argv = ["-c", *arguments]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case [script, *arguments]:
            sys.argv = [script, *arguments]
            runpy.run_path(script, run_name="__main__")
