"""Help and lists import nothing heavy; an import of the programs' package waits until a program is asked for."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "sglang", "scipy.stats", "scipy.special", "matplotlib", "datasets", "aiohttp")
SCRIPT = """
import sys
from a1_sgl import cli
for command in {commands!r}:
    sys.argv = ["a1", *command.split()]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, command
    found = [name for name in {heavy!r} if name in sys.modules]
    assert not found, (command, found)
"""


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)


def test_help_and_lists_import_nothing_heavy():
    lists = ["programs", "recipes", "tasks", "gates", "scores", "votes"]
    helps = ["eval", "calibrate", "certify", "bench", "bench rho", "solve", "replay", "compare", "report", "grade",
             "timeline", "launch", "launch start", "doctor", "demo", "serve", "tasks show", "simulate", "simulate fit",
             "simulate check", "simulate plan"]  # fmt: skip
    commands = ["--help", "--version", *lists, *(f"{one} --json" for one in lists), *(f"{one} --help" for one in helps)]
    done = python(SCRIPT.format(commands=commands, heavy=HEAVY))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["programs", "session", "engine", "conformal", "evals.tasks", "evals.recipes"])
def test_packages_import_nothing_heavy(module):
    heavy = [name for name in HEAVY if not (name == "aiohttp" and module == "session")]
    done = python(f"import sys, a1_sgl.{module}; assert not [one for one in {heavy!r} if one in sys.modules]")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("a1 eval --gate adaptive-", ["adaptive-turn"]),
        ("a1 eval --alarm w", ["warn"]),
        ("a1 eval --audit re", ["rewrite"]),
        ("a1 eval --vote wei", ["weighted"]),
        ("a1 eval --rate jud", ["judge"]),
        ("a1 eval --task math", ["math500"]),
        ("a1 eval --program spec_", ["spec_reason"]),
        ("a1 eval --chunking se", ["sentence"]),
        ("a1 eval --recipe pocket-", ["pocket-paper"]),
        ("a1 eval --runtime dr", ["draft"]),
        ("a1 eval --first-stage own_w", ["own_worst"]),
        ("a1 eval --set take", ["take_over="]),
        ("a1 eval --set score=worst", ["score=worst_window"]),
        ("a1 eval --program dvts --set w", ["width="]),
        ("a1 replay --gate syn", ["synchronous"]),
        ("a1 launch start pocket-", ["pocket-stories"]),
        ("a1 launch two-gpus --stat", ["--state"]),
        ("a1 launch sto", ["stop"]),
        ("a1 launch start one", ["one-gpu"]),
        ("a1 doctor two", ["two-gpus"]),
        ("a1 simulate plan run --pair h100-qwen2.5-7", ["h100-qwen2.5-7b-qwq-32b"]),
        ("a1 eval --program {file}:m", ["{file}:mine"]),
        ("a1 eval --program {file}:mine --vote long", ["longest"]),
        ("a1 eval --program {file}:mine --rate br", ["brief"]),
        ("a1 eval --program {file}:mine --set score=loud", ["score=loudest_loss"]),
        ("a1 eval --program {file}:mine --set score", ["score="]),
        ("a1 eval --program {file}.none:mine --set s", []),
    ],
)
def test_the_shell_completes_values(words, offered, own_file, here, monkeypatch):
    monkeypatch.setenv("_A1_COMPLETE", "complete_fish")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words.format(file=own_file))
    done = here()
    found = [line.split("\t")[0] for line in done.stdout.splitlines() if line]
    assert found == [one.format(file=own_file) for one in offered]
    assert not own_file.with_suffix(".runs").exists(), "the file was run"
