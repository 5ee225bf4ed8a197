"""inspect-ai: the questions of questions.jsonl in the folder that it is started in. README.md has the command."""

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import accuracy, pattern, stderr
from inspect_ai.solver import generate


@task
def questions():
    """Right is what stands in the answer's box."""
    fields = FieldSpec(input="question", target="answer", id="id")
    return Task(
        dataset=json_dataset(str(Path("questions.jsonl").resolve()), fields),
        solver=generate(),
        scorer=pattern(r"\\boxed\{(-?[0-9]+)\}"),
        metrics=[accuracy(), stderr()],
        config=GenerateConfig(temperature=0.6),
    )
