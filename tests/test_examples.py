"""The examples run, on the session's runtimes, and say what they promise."""

from pathlib import Path

import pytest

from .process import run

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "roles", "says"),
    [
        ("solve", ("draft", "target"), "answer: 54 "),
        ("vote", ("draft",), "answer: 54 "),
        ("compose", ("draft", "target"), "right"),
        ("compare", ("draft", "target"), "best_of_n"),
        ("gate", (), "504 of 2400 handed over, 21.0% for an alpha of 20%\ndrift: alarm at question 140"),
    ],
)
def test_an_example_runs(name, roles, says, runtimes):
    done = run(ROOT / "examples" / f"{name}.py", *(runtimes[role].url for role in roles), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


def test_every_example_is_in_the_documents():
    documents = (ROOT / "docs" / "programs.md").read_text()
    for script in (ROOT / "examples").glob("*.py"):
        assert f"examples/{script.name}" in documents, script.name
