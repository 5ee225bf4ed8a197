"""Files that put a pair on a cluster: they say what the launch recipe says, and their own tools take them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from a1_sgl.launch.devices import planned
from a1_sgl.launch.flags import check
from a1_sgl.launch.layout import specs
from a1_sgl.launch.recipes import find_recipe
from a1_sgl.launch.runtimes import Spec

DEPLOY = Path(__file__).parent.parent.parent / "launch" / "deploy"
RECIPE = find_recipe("qwen2.5-7b-qwq-32b")
WANTED = {spec.role: spec for spec in specs(RECIPE, planned("3x80"))}


def servers():
    """Commands, environments and numbers of GPUs, by file and role."""
    for role, service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].items():
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
        ["docker-compose", "-f", str(DEPLOY / "compose.yaml"), "config"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"].keys() == {"draft", "target"}


def test_the_batch_script_is_bash_and_wants_a_recipe_and_a_command():
    script = str(DEPLOY / "slurm.sh")
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    done = subprocess.run(["bash", script, "pocket"], capture_output=True, text=True)
    assert (done.returncode, "give a launch recipe and a command" in done.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "status"), [("a1 launch status", 0), ("exit 7", 7)])
def test_the_batch_script_serves_a_pair_for_the_length_of_a_command(command, status, tmp_path):
    import sys

    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", str(DEPLOY / "slurm.sh"), "pocket", "bash", "-c", command], cwd=tmp_path,
                          env=environment, capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout.count("healthy") >= 2
    assert done.stdout.rstrip().endswith("stopped")
    assert not (tmp_path / ".a1-7" / "runtimes.json").exists()
