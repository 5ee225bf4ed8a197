"""The clients of examples/clients that need nothing more than the tests do."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from a1_sgl.evals.tasks import find_task
from a1_sgl.serve.requests import Defaults

from .conftest import STEPS

CLIENTS = Path(__file__).parents[2] / "examples" / "clients"


def run(*command):
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def url(serving):
    """Whatever the gate decides at the clients' alpha, both write the same steps."""
    return f"{serving(defaults=Defaults.model_validate({'a1': {'take_over': 'replace'}})).url}/v1"


def test_the_openai_client(url):
    said = run(sys.executable, CLIENTS / "openai_client.py", url)
    assert f"{STEPS[2]}  [" in said
    assert f"reasoning_content {STEPS[0].rstrip()!r}" in said
    assert f"content           {STEPS[2]!r}" in said
    assert "finish_reason     stop" in said
    for model in ("draft", "target", "a1", "a1+majority"):
        assert f"\n{model:12} {STEPS[2]}" in said


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(url):
    model, answer, *frames = run("bash", CLIENTS / "curl.sh", url).splitlines()
    assert json.loads(model)["id"] == "a1"
    assert json.loads(answer)["choices"][0]["message"]["content"] == STEPS[2]
    assert frames[-2:] == ["data: [DONE]", ""]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_fails_where_the_server_refuses(serving):
    server = serving()
    server.target.available = False
    command = ["bash", str(CLIENTS / "curl.sh"), f"{server.url}/v1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 22
    assert "runtime_down" in done.stdout


def test_questions_are_those_of_an_evaluation():
    rows = [json.loads(line) for line in run(sys.executable, CLIENTS / "questions.py", "chain", "3").splitlines()]
    questions = find_task("chain").questions("test", 3, 0)
    assert [(one["id"], one["answer"]) for one in rows] == [(one.id, one.answer) for one in questions]
    assert [one["question"] for one in rows] == [one.messages[-1]["content"] for one in questions]


def test_the_harnesses_ask_as_the_task_does():
    """Sampling is the task's, and so is what the server puts before a question."""
    task, asked = find_task("chain"), yaml.safe_load((CLIENTS / "lm_eval_task.yaml").read_text())
    assert asked["generation_kwargs"]["temperature"] == task.temperature
    assert f"temperature={task.temperature}" in (CLIENTS / "inspect_task.py").read_text()
    system = yaml.safe_load((CLIENTS / "chain.yaml").read_text())["system"]
    assert system == task.question("?").messages[0]["content"]
    compile((CLIENTS / "inspect_task.py").read_text(), "inspect_task.py", "exec")


def test_every_client_is_in_the_readme():
    readme = (CLIENTS / "README.md").read_text()
    for one in CLIENTS.iterdir():
        assert one.name == "README.md" or one.name in readme, one.name
