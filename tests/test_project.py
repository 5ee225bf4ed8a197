"""The project's promises about itself: README's code runs, the packages are what the charter says."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import a1_sgl
from a1_sgl.evals.tasks import find_task

ROOT = Path(__file__).parent.parent


def test_the_readmes_library_example_runs(runtimes):
    code = re.search(r"```python\n(from a1_sgl.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    code = code.replace("http://127.0.0.1:30001", runtimes["draft"].url)
    code = code.replace("http://127.0.0.1:30002", runtimes["target"].url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("67 ")  # 39 * 2 - 18 + 7
    assert "'draft': " in done.stdout


@pytest.mark.parametrize("name", ["a1_sgl", "a1_sgl.programs", "a1_sgl.evals", "a1_sgl.launch", "a1_sgl.conformal"])
def test_packages_import(name):
    importlib.import_module(name)


def test_the_conformal_package_needs_no_sglang_and_no_torch():
    code = "import sys, a1_sgl.conformal, a1_sgl.conformal.card; print(sorted({'sglang', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_conformal_package_changes_nothing_of_what_the_process_imports():
    """Stand-ins for what only a GPU needs come with what speaks to runtimes."""
    code = (
        "import importlib.util, os, sys\n"
        "def seen():\n"
        "    found = [importlib.util.find_spec(name) for name in ('triton', 'torchvision', 'sgl_kernel')]\n"
        "    return [spec and spec.origin for spec in found], list(sys.meta_path), dict(os.environ)\n"
        "before = seen()\n"
        "import a1_sgl, a1_sgl.conformal, a1_sgl.conformal.card, a1_sgl.types, a1_sgl.voting, a1_sgl.errors\n"
        "print(seen() == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def test_help_does_not_wait_for_sglang():
    code = (
        "import sys; from a1_sgl.cli import main; sys.argv = ['a1', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('sglang' in sys.modules or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("False"), done.stderr


def test_every_package_folder_is_declared():
    declared = (ROOT / "pyproject.toml").read_text()
    for top, prefix in (("a1_sgl", "a1_sgl"), ("programs", "a1_sgl.programs"), ("evals", "a1_sgl.evals")):
        for init in (ROOT / top).rglob("__init__.py"):
            name = ".".join((prefix, *init.parent.relative_to(ROOT / top).parts))
            assert f'"{name}"' in declared, name
    assert a1_sgl.__version__ in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(("task", "levels"), [("chain", range(3, 11)), ("stories", range(3, 9))])
@pytest.mark.parametrize("role", ["draft", "target"])
def test_the_pocket_weights_carry_their_card(role, task, levels):
    card = json.loads((ROOT / "launch" / "pocket" / task / role / "card.json").read_text())
    assert (card["role"], card["task"]) == (role, task)
    assert card["parameters"] > 0
    assert re.match(r"python -m a1_sgl\.launch\.pocket\.(train|notice) ", card["command"] + " ")
    assert len(card["data"]["sha256"]) == 64
    low, high = {"draft": (0.35, 0.65), "target": (0.97, 1.0)}[role]
    assert low <= card["accuracy"]["mean"] <= high
    assert list(card["accuracy"][f"by_{find_task(task).levels.name}"]) == list(map(str, levels))


@pytest.mark.parametrize(("task", "most"), [("chain", 7_000_000), ("stories", 16_000_000)])
def test_the_pocket_weights_are_small(task, most):
    files = [f for role in ("draft", "target") for f in (ROOT / "launch" / "pocket" / task / role).iterdir()]
    assert sum(file.stat().st_size for file in files) < most


def test_every_promise_names_a_test_that_exists():
    text = (ROOT / "docs" / "guarantees.md").read_text()
    named = set(re.findall(r"`((?:tests/\w+/)?test_\w+\.py)`", text))
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "tests" / "conformal" / name).exists(), name


def test_the_default_gates_of_the_documents_are_those_of_the_code():
    from a1_sgl.conformal import DEFAULT, RECOMMENDED

    readme = (ROOT / "README.md").read_text()
    assert f"`{DEFAULT}` (the default)" in readme
    assert f"`{RECOMMENDED}` is for a rate that must hold in every turn and question" in readme
