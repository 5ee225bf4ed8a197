"""Launching real processes: what dies says why, and nothing is left behind."""

import contextlib
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from a1_sgl import cli as command_line
from a1_sgl.conformal import Card
from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.evals.runner import Eval
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch import cpu_engine
from a1_sgl.launch.pocket import PAIRS, card_path, pocket_pair, pocket_specs
from a1_sgl.launch.runtimes import Running, Spec, serve
from a1_sgl.launch.sizes import cpu_tokens
from a1_sgl.launch.state import State


def cli(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "a1_sgl.cli", *arguments], capture_output=True, text=True, timeout=200, **options
    )


def invoke(*arguments):
    """The command in this process."""
    command_line._register()
    return CliRunner(env={"COLUMNS": "200"}).invoke(command_line.app, arguments)


def group(pid):
    """Living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_a_runtime_that_dies_shows_its_log_and_the_likely_cause(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "draft.log").write_text("the last words of another")
    with pytest.raises(RuntimeFault) as caught, serve([Spec("draft", str(tmp_path / "empty"))], tmp_path / "logs"):
        pass
    said = str(caught.value)
    assert "draft runtime" in said
    assert "ended with status" in said
    assert "likely cause: the model folder" in said
    assert str(tmp_path / "logs" / "draft.log") in said
    assert "  | " in said
    assert sorted(one.name for one in (tmp_path / "logs").iterdir()) == ["draft.log", "draft.previous.log"]
    assert (tmp_path / "logs" / "draft.previous.log").read_text() == "the last words of another"


def test_detached_then_status_then_killed_launcher_leaves_nothing(tmp_path):
    state = str(tmp_path / "state")
    started = cli("launch", "pocket", "--detach", "--state", state)
    assert started.returncode == 0, started.stdout + started.stderr
    record = json.loads((tmp_path / "state" / "runtimes.json").read_text())
    pids = [one["pid"] for one in record["runtimes"]]
    assert all(httpx.get(one["url"] + "/health").status_code == 200 for one in record["runtimes"])
    assert all(len(group(pid)) >= 3 for pid in pids)  # server, scheduler, detokenizer
    # What their processes count together is beside their logs, and not somewhere where it would pile up.
    assert all(list((tmp_path / "state").rglob(f"{one['name']}.metrics/*.db")) for one in record["runtimes"])
    status = cli("launch", "status", "--state", state)
    assert (status.returncode, status.stdout.count("healthy")) == (0, 2)
    for more in ([], ["--detach"]):
        again = cli("launch", "pocket", "--state", state, *more)
        assert again.returncode == 2
        assert "already launched" in again.stderr
    assert all(httpx.get(one["url"] + "/health").status_code == 200 for one in record["runtimes"])
    os.kill(record["launcher"]["pid"], signal.SIGKILL)
    assert wait_for(lambda: not any(group(pid) for pid in pids)), "processes were left behind"
    status = cli("launch", "status", "--state", state)
    assert (status.returncode, status.stdout.count("dead")) == (1, 2)
    assert "Their launcher was killed" in status.stdout
    assert "nothing was running" in cli("launch", "stop", "--state", state).stdout
    assert cli("launch", "status", "--state", state).returncode == 1


@pytest.fixture
def sleepers(monkeypatch):
    """Stand-ins for runtimes: processes that sleep, and the log of each."""

    @contextmanager
    def serve(specs, logs, **_):
        logs.mkdir(parents=True)
        running, processes = [], []
        for name in ("draft", "target"):
            (logs / f"{name}.log").write_text(f"No module named needless\n{name} is ready\n")
            processes.append(one := subprocess.Popen(["sleep", "600"]))
            born = psutil.Process(one.pid).create_time()
            running.append(
                Running(name, f"models/{name}", "http://127.0.0.1:9", one.pid, born, str(logs / f"{name}.log"))
            )
        try:
            yield running
        finally:
            for one in processes:
                one.kill()
                one.wait()

    monkeypatch.setattr("a1_sgl.cli.launch.serve", serve)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, "was ended by signal 9.*likely cause: somebody killed it, or"),
        (signal.SIGTERM, "by signal 15.*see"),
    ],
)
def test_what_ended_a_runtime_is_told_and_all_logs_stay(number, says, sleepers, tmp_path):
    state = tmp_path / "state"

    def kill():
        wait_for(lambda: State(state).runtimes())
        os.kill(State(state).runtimes()[1].pid, number)

    (killer := threading.Thread(target=kill)).start()
    ended = invoke("launch", "pocket", "--state", str(state))
    killer.join()
    assert isinstance(ended.exception, RuntimeFault)
    assert re.search(f"(?s)target runtime .*{says}", str(ended.exception))
    assert {path.name for path in (state / "logs").iterdir()} == {"draft.log", "target.log"}
    assert State(state).ended is not None
    status = invoke("launch", "status", "--state", str(state))
    assert status.exit_code == 1
    assert re.search(f"(?s)target runtime .*{says}", status.stdout)
    assert "target is ready" in status.stdout
    assert "the other runtimes were stopped" in status.stdout
    found = json.loads(invoke("launch", "status", "--state", str(state), "--json").stdout)
    assert [one["state"] for one in found["runtimes"]] == ["dead", "dead"]
    assert re.search(f"(?s){says}", found["ended"]["what"])
    assert set(found["ended"]["logs"]) == {"draft", "target"}


def test_time_that_is_over_before_the_last_could_start_is_told(tmp_path, monkeypatch):
    class Process:
        pid = os.getpid()

        def poll(self):
            return None

    def start(spec, logs):
        return Process(), Running(spec.name, spec.model, "http://x", os.getpid(), 0.0, "log")

    monkeypatch.setattr("a1_sgl.launch.runtimes._start", start)
    monkeypatch.setattr("a1_sgl.launch.runtimes.stop", lambda processes: None)
    looks = iter((False, True))
    monkeypatch.setattr(Running, "healthy", lambda one: next(looks))
    specs = [Spec("draft", "d", after=("target",)), Spec("target", "t")]
    with (
        pytest.raises(RuntimeFault, match="draft could not be started within 0 s: those before took"),
        serve(specs, tmp_path, timeout=0.1),
    ):
        pass


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path):
    """Another's server that answers there would else be taken for the runtime."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        spec = Spec("target", str(tmp_path), port=port)
        with pytest.raises(ConfigError, match=f"target: port {port} is taken"), serve([spec], tmp_path / "logs"):
            pass
    assert not list((tmp_path / "logs").glob("*.log"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_detached_launch_that_is_given_up_leaves_nothing(number, tmp_path):
    """Not by Ctrl-C alone: a job that is cancelled, a terminal that is closed."""
    state = tmp_path / "state"
    heard = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored, as it should be
    front = subprocess.Popen(
        [sys.executable, "-m", "a1_sgl.cli", "launch", "pocket", "--detach", "--state", str(state)], preexec_fn=heard
    )
    assert wait_for(State(state).launcher_alive, 60)
    launcher = psutil.Process(json.loads((state / "runtimes.json").read_text())["launcher"]["pid"])
    try:
        assert wait_for(lambda: len(launcher.children()) == 2, 60)
        runtimes = launcher.children(recursive=True)
        front.send_signal(number)
        assert front.wait(60) != 0
        _, left = psutil.wait_procs([launcher, *runtimes], timeout=60)
        assert not left
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            launcher.kill()  # its runtimes end with it


def test_a_folder_has_one_launcher_from_the_first_moment(sleepers, tmp_path, monkeypatch):
    """While its runtimes start, too: another one would take their logs away, and what they count in."""
    state, begun, go_on = tmp_path / "state", threading.Event(), threading.Event()
    quick = importlib.import_module("a1_sgl.cli.launch").serve

    @contextmanager
    def slow(*arguments, **settings):
        begun.set()
        go_on.wait(30)
        with quick(*arguments, **settings) as running:
            yield running

    monkeypatch.setattr("a1_sgl.cli.launch.serve", slow)
    monkeypatch.setattr("a1_sgl.cli.launch.terminate_on_sigterm", nullcontext)  # is for a main thread
    found = []
    (first := threading.Thread(target=lambda: found.append(invoke("launch", "pocket", "--state", str(state))))).start()
    try:
        assert begun.wait(30)
        status = cli("launch", "status", "--state", str(state))
        assert (status.returncode, "runtimes are starting" in status.stdout) == (1, True)
        again = cli("launch", "pocket", "--state", str(state))
        assert (again.returncode, "already launched here" in again.stderr) == (2, True)
        assert not (state / "logs").exists()
    finally:
        go_on.set()
        wait_for(lambda: State(state).runtimes())
        for one in State(state).runtimes():
            os.kill(one.pid, signal.SIGKILL)
        first.join()
    assert isinstance(found[0].exception, RuntimeFault)


@pytest.mark.slow
def test_stop_ends_everything(tmp_path):
    state = str(tmp_path / "state")
    assert cli("launch", "pocket", "--detach", "--state", state).returncode == 0
    pids = [one.pid for one in State(tmp_path / "state").runtimes()]
    assert "stopped" in cli("launch", "stop", "--state", state).stdout
    assert wait_for(lambda: not any(group(pid) for pid in pids)), "processes were left behind"
    assert not (tmp_path / "state" / "runtimes.json").exists()
    assert not list((tmp_path / "state").rglob("*.metrics"))


def test_the_state_file_survives_reused_process_ids(tmp_path):
    me = psutil.Process()
    born = me.create_time()
    assert Running("draft", "m", "http://x", me.pid, born, "log").alive()
    assert not Running("draft", "m", "http://x", me.pid, born - 100, "log").alive()
    State(tmp_path).write([Running("draft", "m", "http://x", me.pid, born - 100, "log")])
    assert State(tmp_path).launcher_alive()
    assert [one.alive() for one in State(tmp_path).runtimes()] == [False]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "this is no JSON"),
        ("[1]", r"must be a mapping, not \[1\]"),
        ('{"runtimes": [{"name": 3}]}', "runtimes.0.name: must be text, not 3"),
    ],
)
def test_a_broken_state_file_says_what_to_do(text, what, tmp_path):
    (tmp_path / "runtimes.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"runtimes.json cannot be read \({what}.* delete it"):
        State(tmp_path).runtimes()


def test_a_task_without_a_pair_is_named():
    assert [spec.name for spec in pocket_specs("stories")] == ["draft", "target"]
    with pytest.raises(ConfigError, match="'math500' has no pocket pair; these have: chain, stories"):
        pocket_specs("math500")


def test_those_that_come_after_others_start_when_these_are_healthy(tmp_path, monkeypatch):
    """As runtimes that share a GPU do."""
    started, healthy = [], set()

    class Process:
        pid = os.getpid()

        def poll(self):
            return None

    def start(spec, logs):
        started.append((spec.name, set(healthy)))
        return Process(), Running(spec.name, spec.model, f"http://{spec.name}", os.getpid(), 0.0, "log")

    def is_healthy(one):
        healthy.add(one.name)
        return True

    monkeypatch.setattr("a1_sgl.launch.runtimes._start", start)
    monkeypatch.setattr("a1_sgl.launch.runtimes.stop", lambda processes: None)
    monkeypatch.setattr(Running, "healthy", is_healthy)
    said = []
    specs = [Spec("draft", "d", after=("target",)), Spec("target", "t"), Spec("other", "o", after=("target", "draft"))]
    with serve(specs, tmp_path / "logs", progress=lambda state: said.append(dict(state))) as running:
        assert [one.name for one in running] == ["draft", "target", "other"]
    assert started == [("target", set()), ("draft", {"target"}), ("other", {"target", "draft"})]
    assert said[0]["draft"] == "waits for target"


@pytest.mark.parametrize("name", PAIRS)
def test_a_pocket_pair_has_a_card_for_a1_as_its_task_has_it(name):
    task, card = find_task(name), Card.load(card_path(name))
    plan = Eval(
        task=task, split="test", program="a1", runtime=None, chains=1, alpha=0.25, card=card, questions=50,
    )  # fmt: skip
    mine = {"task": name, "program": "a1", "parameters": plan.arguments, "stop": plan.stop, "sampling": plan.sampling}
    assert {key: card.protocol[key] for key in mine} == mine
    assert len(card.scores) > 1000
    assert not {question.id for question in plan.asked} & set(card.questions)
    assert card_path(name).stat().st_size < 100_000


# --- the CPU engine's stand-ins ------------------------------------------------------------------------------

needs_stand_ins = pytest.mark.skipif(
    importlib.util.find_spec("sgl_kernel") is not None and cpu_engine.has_gpu(), reason="the real packages are here"
)


@needs_stand_ins
def test_a_stand_in_raises_when_it_is_called():
    cpu_engine.enable()
    import sgl_kernel
    import triton
    import triton.language as tl

    with pytest.raises(RuntimeError, match=r"sgl_kernel\.rmsnorm was called, but it is a stand-in"):
        sgl_kernel.rmsnorm(1, 2)

    @triton.jit
    def kernel(x):
        return x

    @triton.autotune(configs=[triton.Config({"BLOCK": 1}, num_warps=4)], key=["n"])
    @triton.jit
    def tuned(x: tl.constexpr):
        return x

    for one in (kernel, tuned):
        with pytest.raises(RuntimeError, match="this machine has no GPU"):
            one[(1,)](3)
    with pytest.raises(RuntimeError, match=r"triton\.cdiv was called"):
        triton.cdiv(4, 2)


@needs_stand_ins
def test_torch_never_takes_a_stand_in_for_a_compiler():
    """What a model wants compiled runs as it is written."""
    code = (
        "import a1_sgl.launch.serve, torch, triton\n"
        "@torch.compile(dynamic=True)\ndef double(x): return x * 2\n"
        "print(double(torch.ones(2)).tolist(), type(triton).__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "[2.0, 2.0] _StandIn", out.stderr


def test_the_cache_of_a_large_model_holds_fewer_tokens(tmp_path):
    assert [cpu_tokens(spec.model) for spec in pocket_specs("chain")] == [200_000, 200_000]
    assert cpu_tokens("somebody/on-the-hub") == cpu_tokens(str(tmp_path)) == 200_000
    (tmp_path / "model.safetensors").write_bytes(b"x")
    config = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576,
              "max_position_embeddings": 2048}  # fmt: skip
    for written, width in ((config, 3 * 64), ({"text_config": config | {"head_dim": 256}}, 3 * 256)):
        (tmp_path / "config.json").write_text(json.dumps(written))
        tokens = cpu_tokens(str(tmp_path))
        assert tokens <= 3.1 * 2**30 / (30 * width * 2 * 4) < tokens + 1


def test_real_packages_come_first(tmp_path):
    """The finder is asked last: a package of that name that is installed is the one that is imported."""
    (tmp_path / "torchvision.py").write_text("REAL = True\n")
    code = "from a1_sgl.launch.cpu_engine import enable; enable(); import torchvision; print(torchvision.REAL)"
    out = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert out.stdout.strip() == "True", out.stderr


def test_with_a_gpu_nothing_is_changed(tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    code = (
        "import sys, os; os.environ.pop('SGLANG_USE_CPU_ENGINE', None);"
        "from a1_sgl.launch.cpu_engine import _Finder, enable; enable();"
        "print(any(isinstance(f, _Finder) for f in sys.meta_path), 'SGLANG_USE_CPU_ENGINE' in os.environ)"
    )
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert out.stdout.split() == ["False", "False"], out.stderr


@pytest.mark.parametrize("fault", [None, RuntimeFault("gone"), ConfigError("no")])
def test_logs_of_a_pocket_pair_stay_only_after_a_fault_and_are_named(fault, tmp_path, monkeypatch):
    @contextmanager
    def serve(specs, logs):
        (logs / "draft.log").write_text("x")
        yield [SimpleNamespace(url="http://127.0.0.1:9")] * 2

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("a1_sgl.launch.pocket.serve", serve)
    monkeypatch.setattr("a1_sgl.session.Backend.connect", lambda *urls: nullcontext())
    with nullcontext() if fault is None else pytest.raises(type(fault)) as raised, pocket_pair():
        (logs,) = tmp_path.iterdir()
        if fault is not None:
            raise fault
    assert logs.exists() == isinstance(fault, RuntimeFault)
    if isinstance(fault, RuntimeFault):
        assert raised.value.__notes__ == [f"logs of the runtimes: {logs}"]
    (tmp_path / "mine").mkdir()
    with pocket_pair(logs=str(tmp_path / "mine")):
        pass
    assert (tmp_path / "mine" / "draft.log").exists()
