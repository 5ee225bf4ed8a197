"""How the grader agrees with answers that others recorded.

python -m a1_sgl.evals.benchmarks.agreement --data ../shared/data

The chains' final answers come as a regular expression and as a language model had read them from the same texts. The
chains' texts were not kept, so this measures the grading of answers, not their extraction.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.errors import ConfigError
from a1_sgl.evals.tasks import find_task

TRACES = "traces/r1-llama8b_qwq32b_math500.jsonl.gz"


def main(
    data: Annotated[Path, typer.Option(help="Folder with benchmarks/ and traces/.")],
    most: Annotated[int, typer.Option(help="Longest list of examples.")] = 12,
) -> None:
    """One table, and the disagreements: what was recorded, the reference, and how often."""
    task = find_task("math500", data / "benchmarks")
    # The question stands before the instruction, after a blank line.
    asked = {q.messages[-1]["content"].rpartition("\n\n")[0]: q for q in task.questions("all")}
    if not (data / TRACES).is_file():
        raise ConfigError(f"{data} holds no {TRACES}")
    with gzip.open(data / TRACES, "rt") as file:
        chains = [json.loads(line) for line in file]
    questions = {one["problem"]: asked[one["question"].strip()] for one in chains if one["question"]}
    counts: Counter[tuple[bool, bool]] = Counter()
    right: dict[str, Counter[str]] = {"regex": Counter(), "llm": Counter()}
    apart: dict[str, Counter[tuple[str, ...]]] = {}
    for chain in chains:
        question, graded = questions[chain["problem"]], {}
        for reader in right:
            answer = chain[f"final_answer_{reader}"].strip()
            graded[reader] = task.grade(answer, question).correct
            same = answer == question.answer
            right[reader]["same text"] += same
            right[reader]["graded right"] += graded[reader]
            if same != graded[reader]:
                apart.setdefault("graded right, but other text", Counter())[answer, str(question.answer)] += 1
        counts[graded["regex"], graded["llm"]] += 1
        if graded["regex"] != graded["llm"]:
            name = f"right as the {'regex' if graded['regex'] else 'language model'} reads it, wrong as the other does"
            both = (chain["final_answer_regex"], chain["final_answer_llm"], str(question.answer))
            apart.setdefault(name, Counter())[both] += 1
    console, n = Console(), len(chains)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("answer as read by", "same text as the reference", "graded right"):
        table.add_column(column, justify="left" if column.startswith("answer") else "right")
    for reader, name in (("regex", "regular expression"), ("llm", "language model")):
        table.add_row(name, *(f"{right[reader][c]} of {n}" for c in ("same text", "graded right")))
    console.print(table)
    agree = counts[True, True] + counts[False, False]
    console.print(f"both readings get the same grade in {agree} of {n} chains ({agree / n:.1%})", highlight=False)
    for title, examples in apart.items():
        console.print(f"\n{title}: {examples.total()} in {len(examples)} forms", style="bold", highlight=False)
        for texts, count in examples.most_common(most):
            line = "  |  ".join(" ".join(text.split()) for text in texts)
            console.print(f"{count:>4}  {line}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
