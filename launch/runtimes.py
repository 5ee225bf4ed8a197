"""Starting SGLang runtimes, waiting until they are healthy, and stopping them without leaving a process behind.

Each runtime is a process group of its own whose leader (`a1_sgl.launch.serve`) holds the reading end of a pipe. When
the launcher ends, however it ends, the pipe closes and the group kills itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import BaseModel

from a1_sgl.errors import ConfigError, RuntimeFault, why
from a1_sgl.launch.cpu_engine import has_gpu, kv_tokens
from a1_sgl.launch.serve import WATCH

CPU_FLAGS = (
    "--device", "cpu", "--attention-backend", "torch_native", "--disable-overlap-schedule", "--dtype", "float32",
    # Without sleeping, two idle schedulers eat two cores.
    "--sleep-on-idle", "--max-running-requests", "128",
    # `kv_tokens` says how much memory the cache takes. SGLang would take it from what is free before and after the
    # weights are loaded, which here is anybody's, and give up where others took more meanwhile.
    "--mem-fraction-static", "0.98",
)  # fmt: skip
_MEMORY = "out of memory"
_CAUSES = {
    "address already in use": "the port was taken meanwhile; start again",
    "model_type": "the model folder has no usable config.json",
    "Can't load the configuration": "the model folder is missing or has no config.json",
    "does not appear to have a file named": "the model folder lacks a file; was it copied completely?",
    "leave no GPU memory": "the model does not fit; raise --mem-fraction-static, or serve on a larger machine",
    _MEMORY: "the model does not fit; lower --mem-fraction-static or serve on a larger machine",
    "No module named": "the installation is incomplete; delete .venv and run make again",
    "is a stand-in on this CPU machine": "a CUDA kernel was asked for on a CPU machine; see launch/cpu_engine.py",
}
_KILLED = "somebody killed it, or the system did because memory ran out"


@dataclass(frozen=True)
class Spec:
    """What to serve, and under which name."""

    name: str
    model: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Running:
    """A runtime that was started. `born` guards against a process id that was used again."""

    name: str
    model: str
    url: str
    pid: int
    born: float
    log: str

    def alive(self) -> bool:
        """Whether its process still runs."""
        return alive(self.pid, self.born)

    def healthy(self) -> bool:
        """Whether it answers requests."""
        import httpx  # here, so that no help text waits for it

        try:
            return httpx.get(f"{self.url}/health", timeout=2.0, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


def alive(pid: int, born: float) -> bool:
    """Whether the process `pid` that was born then still runs."""
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - born) < 1 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def serve(
    specs: Sequence[Spec],
    logs: Path,
    *,
    timeout: float = 300.0,
    progress: Callable[[Mapping[str, str]], None] | None = None,
) -> Iterator[list[Running]]:
    """Runs the runtimes for the length of a ``with`` block; yields them once all are healthy.

    Args:
        specs: what to serve.
        logs: folder for one log file a runtime.
        timeout: seconds until all must be healthy.
        progress: told about twice a second what each runtime is doing.

    Raises:
        RuntimeFault: a runtime died or was not healthy in time; with the end of its log and the likely cause.
    """
    logs.mkdir(parents=True, exist_ok=True)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        running = []
        for spec in specs:
            process, one = _start(spec, logs)
            processes.append(process)
            running.append(one)
        _wait(running, processes, timeout, progress)
        yield running
    finally:
        _stop(processes)
        for spec in specs:
            shutil.rmtree(_metrics(spec, logs), ignore_errors=True)


def _metrics(spec: Spec, logs: Path) -> Path:
    """Where a runtime's processes count together; left to itself it makes a folder that nobody takes away again."""
    return (logs / f"{spec.name}.metrics").resolve()


def _start(spec: Spec, logs: Path) -> tuple[subprocess.Popen[bytes], Running]:
    port, log = _free_port(), logs / f"{spec.name}.log"
    if log.exists():  # that of the last one may be what says why it ended
        log.replace(log.with_suffix(".previous.log"))
    local = Path(spec.model).is_dir()
    command = [sys.executable, "-m", "a1_sgl.launch.serve", "--model-path", spec.model, "--port", str(port)]
    # With metrics an answer says how long its request lay in the queue.
    cpu = () if has_gpu() else (*CPU_FLAGS, "--max-total-tokens", str(kv_tokens(spec.model)))
    command += ["--log-level", "warning", "--enable-metrics", *cpu, *spec.flags]
    metrics = _metrics(spec, logs)
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir()
    environment = (
        os.environ | {WATCH: "1", "PROMETHEUS_MULTIPROC_DIR": str(metrics)} | ({"HF_HUB_OFFLINE": "1"} if local else {})
    )
    # Log-probabilities of what is generated are then at temperature 1, as those of a prompt are.
    environment["SGLANG_RETURN_ORIGINAL_LOGPROB"] = "1"
    if not has_gpu():
        environment |= {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    born = psutil.Process(process.pid).create_time()
    return process, Running(spec.name, spec.model, f"http://127.0.0.1:{port}", process.pid, born, str(log))


def _wait(
    running: Sequence[Running],
    processes: Sequence[subprocess.Popen[bytes]],
    timeout: float,
    progress: Callable[[Mapping[str, str]], None] | None,
) -> None:
    started, state = time.monotonic(), dict.fromkeys((one.name for one in running), "starting")
    while set(state.values()) != {"healthy"}:
        waited = time.monotonic() - started
        for one, process in zip(running, processes, strict=True):
            if process.poll() is not None:
                raise RuntimeFault(_post_mortem(one, f"ended with status {process.returncode} while starting"))
            if state[one.name] != "healthy":
                state[one.name] = "healthy" if one.healthy() else f"starting, {waited:.0f} s"
        if waited > timeout:
            late = next(one for one in running if state[one.name] != "healthy")
            raise RuntimeFault(_post_mortem(late, f"was not healthy after {timeout:.0f} s"))
        if progress is not None:
            progress(state)
        time.sleep(0.5)


def obituary(one: Running) -> str:
    """What is known of a runtime of this process that ended by itself: how, the end of its log, the likely cause."""
    status = None
    with contextlib.suppress(psutil.Error):
        status = psutil.Process(one.pid).wait(0)  # a child's, and read once
    how = "ended by itself" if status is None else f"ended by itself with status {status}"
    killed = "" if status is None or status >= 0 else f"was ended by signal {-status}"
    # What a runtime that became healthy had said of its start was no cause.
    causes = {_MEMORY: _CAUSES[_MEMORY]} | ({"": _KILLED} if killed == f"was ended by signal {signal.SIGKILL}" else {})
    return _post_mortem(one, killed or how, causes)


def _post_mortem(one: Running, what: str, causes: Mapping[str, str] = _CAUSES) -> str:
    text = Path(one.log).read_text(errors="replace")
    tail = "\n".join(f"  | {line}" for line in text.splitlines()[-15:]) or "  | (its log is empty)"
    cause = next((fix for sign, fix in causes.items() if sign in text), "see the log")
    return f"{one.name} runtime ({one.model}) {what}.\n{tail}\nlikely cause: {cause}\nfull log: {one.log}"


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- where they are -------------------------------------------------------------------------------------------


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

    def write(self, running: Sequence[Running]) -> None:
        """Records `running`, with this process as their launcher."""
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
        """Whether the launcher still runs."""
        launcher = self._read().launcher
        return launcher is not None and alive(launcher.pid, launcher.born)

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
