"""The command line in this process."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from a1_sgl import cli
from a1_sgl.conformal import SCORES
from a1_sgl.session import RATES
from a1_sgl.voting import VOTES


@pytest.fixture
def here(monkeypatch, capfd, tmp_path):
    """The command in this process and in an empty folder, which spares it the start of a new one; 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["a1", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        return SimpleNamespace(returncode=ended.value.code or 0, stdout=said.out, stderr=said.err)

    return run


@pytest.fixture
def fakes(monkeypatch, scripted):
    """Commands that ask for runtimes get the scripted fakes of task chain."""

    @contextmanager
    def connect(self, runtime):
        with scripted() as pair:
            yield pair if runtime is None else pair.alone(runtime)

    monkeypatch.setattr("a1_sgl.cli.runtimes.Runtimes.connect", connect)


@pytest.fixture
def own_file(tmp_path):
    """A file of programs with a score, a vote and a rating of its own; it counts how often it is run."""
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    yield path
    for registry, name in ((SCORES, "loudest_loss"), (VOTES, "longest"), (RATES, "brief")):
        registry.pop(name, None)


OWN = '''
import pathlib

import sglang as sgl

from a1_sgl.conformal import score
from a1_sgl.programs import program
from a1_sgl.session import rate, run_chains
from a1_sgl.voting import vote

with pathlib.Path(__file__).with_suffix(".runs").open("a") as runs:
    runs.write("x")


@score("loudest_loss", "largest loss")
def loudest(evidence):
    return max(evidence.target)


@vote("longest")
def longest(chains):
    """The longest chain counts most."""
    return [len(chain.text) for chain in chains]


@rate("brief", "shorter is better")
def brief(chain):
    raise NotImplementedError


@program(gate="required", takes_over=True)
@sgl.function
def mine(s, query, gate, draft_tokens=64, target_tokens=64, score="loudest_loss"):
    """The target may have the last word."""

    def body(chain):
        if chain.judge(chain.draft(draft_tokens), gate, score=score):
            chain.target(target_tokens)
        chain.end_turn()

    return run_chains(s, query, body)


@program()
@sgl.function
def broken(s, query, words=5):
    """Divides by nothing."""

    def body(chain):
        chain.draft(words)
        return 1 / 0  # the broken line

    return run_chains(s, query, body)


@program()
@sgl.function
def hopeless(s, query, words=5):
    """Does not even begin."""
    raise KeyError("words")
'''
