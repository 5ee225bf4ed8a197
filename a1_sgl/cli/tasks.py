"""`a1 tasks`: list the tasks, show what a model is asked, and check a declaration of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from a1_sgl.cli import common, complete, console
from a1_sgl.cli.app import App
from a1_sgl.errors import ConfigError

if TYPE_CHECKING:
    from a1_sgl.types import Question

app = App(help="List the tasks, show what a model is asked, check a declaration of your own.")
Name = Annotated[str, typer.Argument(help="A task, or a YAML file that declares one.", autocompletion=complete.tasks)]
Model = Annotated[
    str | None,
    typer.Option(help="Model whose chat template renders the prompt: a folder, or a name on the hub.", metavar="MODEL"),
]


@app.callback(invoke_without_command=True)
def list_(context: typer.Context, as_json: common.Json = False) -> None:
    """List the tasks, show what a model is asked, check a declaration of your own."""
    if context.invoked_subcommand is not None:
        return
    from a1_sgl.evals.tasks import TASKS, find_task

    tasks = [find_task(name) for name in TASKS]
    if as_json:
        rows = [{"name": t.name, "splits": list(t.splits), "about": t.about, "source": t.source} for t in tasks]
        common.as_json({"tasks": rows})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("task", no_wrap=True)
    table.add_column("splits", no_wrap=True)
    table.add_column("")
    for task in tasks:
        table.add_row(task.name, ", ".join(task.splits), task.about)
        table.add_row("", "", f"from {task.source}", style="dim")
    console.print(table)
    console.print("\n--task path/to/task.yaml takes one of yours; --data names a local copy of the rows.")


@app.command()
def show(
    name: Name,
    split: Annotated[str | None, typer.Option(help="Which questions. [default: the last split]")] = None,
    data: common.Data = None,
    family: common.Family = None,
    model: Model = None,
    questions: Annotated[int, typer.Option(help="How many questions.")] = 1,
    seed: common.Seed = 0,
) -> None:
    """Show the first prompts of a task as a model gets them, for every family of models or for one."""
    from a1_sgl.evals.tasks import families, find_task

    task = find_task(name, data)
    render = _template(model) if model else None
    for one in (family,) if family else task.families:
        asked = task.questions(split or task.splits[-1], questions, seed, family=one)
        known = families().get(one)
        console.print(f"{one}: {known.about}" if known else task.about, style="bold", highlight=False, markup=False)
        for question in asked:
            _print(question, render)


@app.command()
def validate(name: Name, data: common.Data = None) -> None:
    """Check a declaration, and every row of its data: the fields, and that each gold answer grades as right."""
    from a1_sgl.evals.tasks import find_task

    task = find_task(name, data)
    bad: list[str] = []
    golds = False
    for split in task.splits:
        questions = task.questions(split)
        for question in questions:
            golds |= question.answer is not None
            grade = task.grade(question.answer, question)
            if question.answer is not None and (not grade.correct or grade.note):
                bad.append(f"{question.id}: {question.answer!r} {grade.note or 'does not equal itself'}")
        console.print(f"{split}: {len(questions)} questions", highlight=False)
    for question in task.questions(task.splits[-1])[:2]:
        _print(question, None)
    if bad:
        raise ConfigError(f"task {task.name}: {len(bad)} gold answers cannot be graded\n  " + "\n  ".join(bad[:20]))
    what = "every gold answer equals itself" if golds else "there are no gold answers"
    console.print(f"{task.name}: the declaration is valid, and {what}", highlight=False)


def _print(question: Question, render: Callable[[Question], str] | None) -> None:
    if render is not None:
        console.print(render(question), markup=False, highlight=False, soft_wrap=True)
    else:
        for message in question.messages:
            console.print(f"{message['role']}: ", style="bold", end="")
            console.print(message["content"], markup=False, highlight=False, soft_wrap=True)
    facts = {"id": question.id, "answer": question.answer, **question.meta}
    console.print(
        "  ".join(f"{key}={value}" for key, value in facts.items()), style="dim", markup=False, highlight=False
    )


def _template(model: str) -> Callable[[Question], str]:
    from transformers import AutoTokenizer

    from a1_sgl.engine import Codec

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model {model}: no tokenizer there ({str(error).splitlines()[0]})") from error
    codec = Codec(tokenizer)
    return lambda question: codec.render(question.messages)
