"""What the documents say of the project is so."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from a1_sgl import cli
from a1_sgl.evals.tasks import find_task
from a1_sgl.evals.tasks.columns import Fields
from a1_sgl.evals.tasks.declared import Declaration, Source

from .process import run

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        where = (page.parent / path) if path else page
        assert where.exists(), f"{page.name}: {target}"
        if anchor and where.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", where.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{page.name}: {target}; there is {', '.join(sorted(slugs))}"


def commands():
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"^(?: {4}|\$ )(a1 .*)$", text, re.MULTILINE):
            yield pytest.param(shlex.split(line, comments=True)[1:], id=f"{page.name}: {line[:60]}")


@pytest.mark.parametrize("arguments", commands())
def test_commands_are_as_they_are_written(arguments):
    """Every option is one that the command has, with its value, and none that it needs is missing."""
    cli._register()
    command, context = typer.main.get_command(cli.app), None
    while True:
        context = command.context_class(command, parent=context)
        arguments = getattr(command, "spelt_out", list)(arguments)
        inner = getattr(command, "commands", {}).get(arguments[0] if arguments else "")
        if inner is None:
            break
        command, arguments = inner, arguments[1:]
    given, _, _ = command.make_parser(context).parse_args(list(arguments))
    assert not [one.name for one in command.params if one.required and not given.get(one.name)]


def test_tests_that_are_named_are_there():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/serve.md").read_text()))
    defined = set(re.findall(r"^def (test_\w+)", (ROOT / "tests/serve/test_reports.py").read_text(), re.MULTILINE))
    assert named
    assert named <= defined


def test_the_page_on_tasks_has_the_whole_schema_and_its_task_works(tmp_path):
    page = (ROOT / "docs/tasks.md").read_text()
    top, _, rest = page.partition("### `source`")
    source, _, fields = rest.partition("### `fields`")
    for model, part in ((Declaration, top), (Source, source), (Fields, fields)):
        assert all(f"`{name}`" in part for name in model.model_fields), model
    (tmp_path / "sums.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    (tmp_path / "sums.jsonl").write_text(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    task = find_task(str(tmp_path / "sums.yaml"))
    (question,) = [one for split in task.splits for one in task.questions(split)]
    assert question.answer == "5"
    assert task.grade("5.0", question).correct


def test_the_tour_runs(runtimes):
    """Every cell, in order, on the session's runtimes and with fewer questions."""
    notebook = json.loads((ROOT / "docs/tour.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    code = "\n".join(cells)
    assert "pocket_pair()" in code
    urls = f"Backend.connect({runtimes['draft'].url!r}, {runtimes['target'].url!r})"
    code = "from a1_sgl.session import Backend\n" + code.replace("pocket_pair()", urls)
    assert code.count(", 20)") == 2
    code = code.replace(", 20)", ", 11)")  # of 4 chains: the last cell wants 40 decisions in a turn
    done = run("-c", code, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "answer: 67" in done.stdout
    for cell in notebook["cells"]:
        assert cell["cell_type"] != "code" or cell["outputs"], "the tour shows what it prints"
