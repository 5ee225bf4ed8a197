"""Starting SGLang runtimes, waiting until they are healthy, and stopping them without leaving a process behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.launch.cpu_engine import has_gpu
from a1_sgl.launch.processes import free_port, spawn, stop
from a1_sgl.launch.sizes import cpu_tokens

CPU_FLAGS = (
    "--device", "cpu", "--attention-backend", "torch_native", "--disable-overlap-schedule", "--dtype", "float32",
    # Without sleeping, two idle schedulers eat two cores.
    "--sleep-on-idle", "--max-running-requests", "128",
    # `cpu_tokens` says how much memory the cache takes. SGLang would take it from what is free before and after the
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
    """What to serve.

    Attributes:
        name: what logs and errors call it; no two have the same.
        model: a folder or a hub name.
        flags: SGLang's own, in addition to those that every runtime is started with.
        role: what it is found by; its name, unless several serve one role.
        devices: the GPUs that it sees, as ``CUDA_VISIBLE_DEVICES`` has them; none given, all of them.
        after: names of those that must be healthy before it starts.
        port: where it listens; None takes what is free.
    """

    name: str
    model: str
    flags: tuple[str, ...] = ()
    role: str = ""
    devices: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    port: int | None = None

    def command(self, port: int | str, gpu: bool) -> list[str]:
        """What is run, on a machine with or without a GPU."""
        # With metrics an answer says how long its request lay in the queue.
        cpu = () if gpu else (*CPU_FLAGS, "--max-total-tokens", str(cpu_tokens(self.model)))
        fixed = ("--log-level", "warning", "--enable-metrics", *cpu)
        return [sys.executable, "-m", "a1_sgl.launch.serve", "--model-path", self.model, "--port", str(port),
                *fixed, *self.flags]  # fmt: skip

    def environment(self, gpu: bool) -> dict[str, str]:
        """What its environment has beside this process's."""
        # Log-probabilities of what is generated are then at temperature 1, as those of a prompt are.
        found = {"SGLANG_RETURN_ORIGINAL_LOGPROB": "1"}
        if Path(self.model).is_dir():
            found["HF_HUB_OFFLINE"] = "1"
        if not gpu:
            found |= {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}
        elif self.devices:
            # By the bus, as nvidia-smi counts; left to itself CUDA puts the fastest one first.
            found |= {"CUDA_VISIBLE_DEVICES": ",".join(self.devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        return found

    def ready(self, one: Running) -> bool:
        """Whether what was started of it may be used."""
        return one.healthy()


@dataclass(frozen=True)
class Running:
    """A runtime that was started. `born` guards against a process id that was used again."""

    name: str
    model: str
    url: str
    pid: int
    born: float
    log: str
    role: str = ""

    def __post_init__(self) -> None:
        if not self.role:
            object.__setattr__(self, "role", self.name)

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
    timeout: float = 600.0,
    progress: Callable[[Mapping[str, str]], None] | None = None,
) -> Iterator[list[Running]]:
    """Runs the runtimes for the length of a ``with`` block; yields them once all are healthy.

    Args:
        specs: what to serve.
        logs: folder for one log file a runtime.
        timeout: seconds until all must be healthy.
        progress: told about twice a second what each runtime is doing.

    Raises:
        ConfigError: a port that was named is taken.
        RuntimeFault: a runtime died or was not healthy in time; with the end of its log and the likely cause.
    """
    logs.mkdir(parents=True, exist_ok=True)
    started: dict[str, tuple[subprocess.Popen[bytes], Running]] = {}
    try:
        _start_all(specs, started, logs, timeout, progress)
        yield [started[spec.name][1] for spec in specs]
    finally:
        stop([process for process, _ in started.values()])
        for name in started:
            shutil.rmtree(_metrics(name, logs), ignore_errors=True)


def _start_all(
    specs: Sequence[Spec],
    started: dict[str, tuple[subprocess.Popen[bytes], Running]],
    logs: Path,
    timeout: float,
    progress: Callable[[Mapping[str, str]], None] | None,
) -> None:
    """Starts each when those it comes after are healthy, until all are."""
    begun, state = time.monotonic(), {spec.name: f"waits for {' and '.join(spec.after)}" for spec in specs}
    while set(state.values()) != {"healthy"}:
        waited = time.monotonic() - begun
        for spec in specs:
            if spec.name not in started:
                if any(state[name] != "healthy" for name in spec.after):
                    continue
                started[spec.name] = _start(spec, logs)
            process, one = started[spec.name]
            if state[spec.name] != "healthy":
                state[spec.name] = "healthy" if spec.ready(one) else f"starting, {waited:.0f} s"
            if process.poll() is not None:  # asked last: what answers may be another's server, on the same port
                raise RuntimeFault(post_mortem(one, f"ended with status {process.returncode} while starting"))
        if waited > timeout and set(state.values()) != {"healthy"}:
            for _, one in started.values():
                if state[one.name] != "healthy":
                    raise RuntimeFault(post_mortem(one, f"was not healthy after {timeout:.0f} s"))
            waiting = ", ".join(name for name, what in state.items() if what != "healthy")
            raise RuntimeFault(f"{waiting} could not be started within {timeout:.0f} s: those before took all of them")
        if progress is not None:
            progress(state)
        time.sleep(0.5)


def _metrics(name: str, logs: Path) -> Path:
    """Where a runtime's processes count together; left to itself it makes a folder that nobody takes away again."""
    return (logs / f"{name}.metrics").resolve()


def _start(spec: Spec, logs: Path) -> tuple[subprocess.Popen[bytes], Running]:
    try:
        port = free_port(spec.port)
    except OSError as error:
        raise ConfigError(f"{spec.name}: port {spec.port} is taken ({error.strerror}); name another one") from error
    command, log, metrics = spec.command(port, has_gpu()), logs / f"{spec.name}.log", _metrics(spec.name, logs)
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir()
    environment = os.environ | spec.environment(has_gpu()) | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}
    process = spawn(command, log, environment)
    born = psutil.Process(process.pid).create_time()
    return process, Running(
        spec.name, spec.model, f"http://127.0.0.1:{port}", process.pid, born, str(log), spec.role or spec.name
    )


def serving(running: Sequence[Running]) -> bool:
    """Whether each role still has a runtime that lives; where several serve one, the rest go on without the dead."""
    return {one.role for one in running} == {one.role for one in running if one.alive()}


def obituary(one: Running) -> str:
    """What is known of a runtime of this process that ended by itself: how, the end of its log, the likely cause."""
    status = None
    with contextlib.suppress(psutil.Error):
        status = psutil.Process(one.pid).wait(0)  # a child's, and read once
    how = "ended by itself" if status is None else f"ended by itself with status {status}"
    killed = "" if status is None or status >= 0 else f"was ended by signal {-status}"
    # What a runtime that became healthy had said of its start was no cause.
    causes = {_MEMORY: _CAUSES[_MEMORY]} | ({"": _KILLED} if killed == f"was ended by signal {signal.SIGKILL}" else {})
    return post_mortem(one, killed or how, causes)


def post_mortem(one: Running, what: str, causes: Mapping[str, str] = _CAUSES) -> str:
    """`what` became of a process, the end of its log, and the likely cause."""
    text = Path(one.log).read_text(errors="replace")
    tail = "\n".join(f"  | {line}" for line in text.splitlines()[-15:]) or "  | (its log is empty)"
    cause = next((fix for sign, fix in causes.items() if sign in text), "see the log")
    return f"{one.name} runtime ({one.model}) {what}.\n{tail}\nlikely cause: {cause}\nfull log: {one.log}"
