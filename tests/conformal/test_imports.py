import ast
import sys
from pathlib import Path

import pytest

import a1_sgl.conformal as conformal

FILES = sorted(Path(conformal.__file__).parent.glob("*.py"))
ALLOWED = {"numpy", "scipy", "sortedcontainers"}
OURS = ("a1_sgl.arguments", "a1_sgl.conformal", "a1_sgl.errors", "a1_sgl.compare", "a1_sgl.registry")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def allowed(name):
    top = name.split(".")[0]
    return top in sys.stdlib_module_names | ALLOWED or any(name == one or name.startswith(one + ".") for one in OURS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_modules_need_three_packages_and_nothing_of_the_runtime(path):
    assert [name for name in imported(path) if not allowed(name)] == []


def test_the_check_sees_every_module_and_would_object():
    assert {"gate", "bank", "card", "risk"} <= {path.stem for path in FILES}
    assert not any(map(allowed, ["sglang.lang", "a1_sgl.engine", "a1_sgl", "torch", ".gate", "pandas"]))


def test_every_public_name_is_there():
    assert [name for name in conformal.__all__ if not hasattr(conformal, name)] == []
    assert sorted(conformal.__all__) == sorted(set(conformal.__all__))
