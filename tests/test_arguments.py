"""What callers in Python hand in: a path may be text, and what is of another kind is named."""

import functools

import pytest

from a1_sgl.conformal import Card
from a1_sgl.errors import ConfigError
from a1_sgl.evals.replay import read
from a1_sgl.evals.report import write
from a1_sgl.evals.runner import Eval, calibrate, evaluate
from a1_sgl.evals.tasks import find_task
from a1_sgl.programs import direct
from a1_sgl.records import RunFolder
from a1_sgl.session import Query
from a1_sgl.types import Question

TASK = find_task("chain")


def plan(**changes):
    settings = {
        "task": TASK, "split": "test", "program": "a1", "runtime": None, "questions": 3, "chains": 2, "alpha": 0.25,
        "sampling": {"temperature": 0.6, "top_p": 1.0},
    }  # fmt: skip
    return Eval(**settings | changes)


def test_a_path_may_be_text(scripted, tmp_path):
    where = str(tmp_path / "run")
    with scripted() as pair:
        evaluate(plan(), pair, where)
        card, _ = calibrate(plan(split="calibration"), pair, str(tmp_path / "cal"))
    card.save(str(tmp_path / "card.json"))
    assert Card.load(str(tmp_path / "card.json")) == card
    folder = RunFolder.read(where)
    assert len(folder.chains) == 6
    assert read(where).chunks == read([tmp_path / "run"]).chunks > 0
    assert write(str(tmp_path / "page.html"), {"run": folder})[0] == tmp_path / "page.html"
    (tmp_path / "mine.yaml").write_text("about: x\nsource: {file: rows.jsonl}\nsplits: {test: [0, 1]}\n")
    (tmp_path / "rows.jsonl").write_text('{"problem": "1 + 1?", "answer": "2"}\n')
    assert len(find_task(tmp_path / "mine.yaml").questions("test")) == 1
    assert len(find_task(str(tmp_path / "mine.yaml"), str(tmp_path / "rows.jsonl")).questions("test")) == 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: plan(task="chain"), r"task is a Task, such as find_task\('chain'\), not 'chain'"),
        (lambda: plan(program=direct), "program is a str, such as 'a1' or"),
        (lambda: plan(card="card.json"), r"card is a Card, such as Card.load\('card.json'\), not 'card.json'"),
        (
            lambda: evaluate(plan(), "http://x", "run"),
            r"a backend is a Backend, such as Backend.connect\(.*, not 'http",
        ),
        (lambda: evaluate("chain", None, "run"), "a plan is a Eval, such as Eval.*, not 'chain'"),
        (lambda: evaluate(plan(), None, 3), "a run's folder is a path, as text or as a pathlib.Path, not 3"),
        (lambda: calibrate("chain", None, "run"), "a plan is a Eval"),
        (lambda: RunFolder.read(None), "a run's folder is a path, .*, not None"),
        (lambda: Card.load({"scores": []}), "a card's file is a path"),
        (lambda: find_task(TASK), "a task's name or file is a path"),
        (lambda: read([3]), "a trace is a path, .*, not 3"),
        (lambda: write("x.html", {"a": "runs/a1"}), r"run a is a RunFolder, such as RunFolder.read.*, not 'runs/a1'"),
        (lambda: Question.of(3), "a question is a str, such as .*, not 3"),
    ],
)
def test_what_is_of_another_kind_is_named(call, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        call()


class Hears:
    async def __call__(self, event): ...


async def hears(event): ...


async def yields(event):
    yield event


@pytest.mark.parametrize("listener", [hears, yields, Hears(), functools.partial(hears), "print"])
def test_a_listener_that_nobody_would_await_is_refused(listener, scripted):
    with pytest.raises(ConfigError, match="a listener is"):
        Query.of("q", 1, listener=listener)
    with scripted() as pair, pytest.raises(ConfigError, match="a listener is"):
        direct.run(question="q", backend=pair, listener=listener)
