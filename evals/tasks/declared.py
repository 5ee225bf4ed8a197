"""Tasks declared in YAML: what a file may say, and what becomes of it.

.. code-block:: yaml

    about: MATH-500, competition mathematics
    source: {hub: HuggingFaceH4/MATH-500, split: test}  # or {file: rows.jsonl}
    fields: {id: unique_id, question: [problem], answer: answer, keep: [subject]}
    instruction: Please reason step by step, and put your final answer within \\boxed{}.
    grader: math
    splits: {calibration: [0, 0.2], test: [0.2, 1], all: [0, 1]}

A split takes the questions whose hash lies within its two bounds: the same ones on every machine and in any order of
rows. A task's file and those of its rows in a ``--data`` folder have the same name.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from a1_sgl import reading
from a1_sgl.answers import GRADERS
from a1_sgl.errors import ConfigError, named
from a1_sgl.evals import chain, exact, generated, stories
from a1_sgl.evals.tasks import columns, rows
from a1_sgl.evals.tasks.columns import LETTERS, Checked, Fields, LevelRange
from a1_sgl.evals.tasks.task import Levels, Messages, Task
from a1_sgl.programs.chunking import CHUNKINGS
from a1_sgl.session import Query, find_audit
from a1_sgl.types import Question

HERE = Path(__file__).parent
_MAKERS: dict[str, Callable[[generated.Split, int, range], Iterator[generated.Generated]]] = {
    "chain": chain.problems,
    "stories": stories.problems,
}


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(_Declared):
    """Where rows come from: a dataset on the hub, a file, or a generator of this package."""

    hub: str | None = None
    """``OWNER/NAME``; then `config` and `split` are the dataset's."""
    file: str | None = None
    """A file of rows, or a folder with one that is named after the task; relative to the declaration's own folder."""
    config: str | None = None
    split: str = "test"
    generated: Literal["chain", "stories"] | None = None

    @model_validator(mode="after")
    def _one(self) -> Source:
        if sum(one is not None for one in (self.hub, self.file, self.generated)) != 1:
            raise ValueError(
                "a source is one of `hub: OWNER/NAME`, `file: PATH` and "
                f"`generated: {' or '.join(_MAKERS)}`, and no two of them"
            )
        return self


class Declaration(_Declared):
    """One task's file."""

    about: str
    source: Source
    fields: Fields = Fields()
    system: str | None = None
    """System prompt, for models of every family."""
    instruction: str = ""
    """Goes with each question: after it or as the system prompt, as the family has it."""
    answer_after: str | None = None
    """The reference answer is what follows this in its column."""
    chunking: str = "step"
    grader: str = "math"
    audit: str = Query.audit
    defaults: Mapping[str, Any] = Field(default_factory=dict)
    temperature: float = Field(0.8, ge=0)
    levels: LevelRange | None = None
    splits: Mapping[str, tuple[float, float]]

    @model_validator(mode="after")
    def _known(self) -> Declaration:
        if self.grader not in GRADERS:
            raise ValueError(f"unknown grader {self.grader!r}; known: {', '.join(GRADERS)}")
        if self.chunking not in CHUNKINGS:
            raise ValueError(f"unknown chunking {self.chunking!r}; known: {', '.join(CHUNKINGS)}")
        if (self.fields.level is None) != (self.levels is None) and not self.source.generated:
            raise ValueError("field `level` and `levels` go together")
        find_audit(self.audit)
        if self.audit == exact.NAME and not self.source.generated:
            raise ValueError(f"audit {exact.NAME} checks steps of generated tasks alone")
        if bool(self.fields.wrong) != (self.grader == "choice") or (self.fields.wrong and not self.fields.answer):
            raise ValueError("grader `choice` and fields `wrong` go together, beside `answer`")
        for name, (low, high) in self.splits.items():
            if not 0 <= low < high <= 1:
                raise ValueError(f"split {name} is [LOW, HIGH] with 0 <= LOW < HIGH <= 1, not [{low}, {high}]")
        if bool(self.splits) == bool(self.source.generated):
            raise ValueError(
                "a task with rows needs a split, such as `splits: {test: [0, 1]}`; a generated one has those of its "
                "generator, and says `splits: {}`"
            )
        return self

    @field_validator("defaults")
    @classmethod
    def _taken(cls, defaults: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        if not (info.context or {}).get("ours"):  # a test checks ours, and a list must not import the programs
            from a1_sgl.programs.contract import check_defaults

            check_defaults(defaults)
        return defaults


class Family(_Declared):
    """How a kind of model wants to be asked."""

    about: str
    instruction: Literal["user", "system"]


def load(path: Path, data: Path | None = None) -> Task:
    """The task that a file declares; its rows are read when questions are asked for.

    Args:
        data: file or folder with its rows, instead of the task's own source.

    Raises:
        ConfigError: the file cannot be read or says something that a task has not; the place is named.
    """
    declared, name = declaration(path), path.stem
    if data is not None and declared.source.generated:
        raise ConfigError(f"task {name} generates its questions and takes no --data")
    if data is None and declared.source.file is not None:
        data = path.parent / declared.source.file
    if declared.source.generated:
        draw, splits = _generated(name, declared), tuple(map(str, generated.SPLITS))
        known: tuple[str, ...] = ("any",)
        where = "generated here"
    else:
        draw, splits = _rows(name, declared, data), tuple(declared.splits)
        known = tuple(families())
        where = str(data) if data else str(declared.source.hub)
    return Task(
        name=name, about=declared.about, source=where, splits=splits,
        levels=Levels(**declared.levels.model_dump()) if declared.levels else None,
        chunking=declared.chunking, defaults=declared.defaults, temperature=declared.temperature, families=known,
        grader=declared.grader, audit=declared.audit,
        ask=lambda text, family: prompt(declared, text, families().get(family)), draw=draw,
        in_turn=declared.source.generated is not None,
    )  # fmt: skip


def declaration(path: Path) -> Declaration:
    """What a file says. Errors as in `load`."""
    said = reading.from_yaml(path)
    try:
        return Declaration.model_validate(said, context={"ours": path.parent == HERE})
    except ValidationError as error:
        told = "\n  ".join(_told(one) for one in error.errors())
        raise ConfigError(f"{path} declares no task:\n  {told}") from error


def _told(error: ErrorDetails) -> str:
    """What is wrong with one field; of one that there is not, which there are."""
    if error["type"] != "extra_forbidden":
        return named(error)
    holder: Any = Declaration
    for part in error["loc"][:-1]:
        kinds = (found := holder.model_fields[str(part)].annotation, *get_args(found))
        holder = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return f"{named(error)}; there are {', '.join(holder.model_fields)}"


@cache
def families() -> dict[str, Family]:
    """Kinds of model by name, the usual one first."""
    text = (HERE / "families.yaml").read_text()
    return {name: Family.model_validate(one) for name, one in yaml.safe_load(text).items()}


def prompt(declared: Declaration, text: str, family: Family | None) -> Messages:
    """Chat messages for a question."""
    system, user = declared.system, text
    if declared.instruction:
        if family is not None and family.instruction == "system":
            system = "\n".join(filter(None, (system, declared.instruction)))
        else:
            user = f"{text}\n\n{declared.instruction}"
    messages = ({"role": "system", "content": system},) if system else ()
    return (*messages, {"role": "user", "content": user})


def _generated(name: str, declared: Declaration) -> Any:
    assert declared.source.generated is not None
    make, level = _MAKERS[declared.source.generated], declared.levels

    def draw(
        split: generated.Split, count: int | None, seed: int, levels: tuple[int, int], family: str
    ) -> list[Question]:
        source = make(split, seed, range(levels[0], levels[1] + 1))
        return [
            Question(
                id=_hash(problem.text)[:12],
                messages=prompt(declared, problem.text, None),
                answer=str(problem.answer),
                task=name,
                meta={level.name: problem.difficulty} if level else {},
            )
            for problem in islice(source, 100 if count is None else count)
        ]

    return draw


def _rows(name: str, declared: Declaration, data: Path | None) -> Any:
    fields, source = declared.fields, declared.source
    rules = columns.Rules(declared.levels, declared.answer_after)

    @cache
    def everything() -> list[tuple[str, Checked]]:
        if data is not None:
            where: Path | str = (file := rows.local(data, name))
            found = rows.read(file)
        else:
            assert source.hub is not None
            where, found = source.hub, rows.download(source.hub, source.config, source.split, name)
        if not found:
            raise ConfigError(f"task {name}: {where} holds no rows")
        return columns.check(name, found, fields, rules)

    def draw(split: str, count: int | None, seed: int, levels: tuple[int, int] | None, family: str) -> list[Question]:
        low, high = declared.splits[split]
        chosen: dict[str, tuple[Question, str]] = {}
        for place, row in everything():
            if not low <= int(_hash(row.question)[:8], 16) / 2**32 < high:
                continue
            question = _question(name, declared, row, seed, families()[family])
            if declared.levels and levels and not levels[0] <= question.meta[declared.levels.name] <= levels[1]:
                continue
            first, where = chosen.setdefault(question.id, (question, place))
            if first != question:
                what = f"two different questions have the id {question.id}"
                if first.messages == question.messages and first.answer != question.answer:
                    what = "one question has two answers"
                raise ConfigError(f"task {name}: {what}: {where}, and {place}")
        questions = [question for question, _ in chosen.values()]
        if count is not None and count > len(questions):
            raise ConfigError(f"task {name} has {len(questions)} such questions in split {split}, not {count}")
        if count is not None:
            order = sorted(questions, key=lambda one: _hash(f"{seed}/{one.id}"))
            questions = order[:count]
        return questions

    return draw


def _question(name: str, declared: Declaration, row: Checked, seed: int, family: Family) -> Question:
    text = row.question.strip()
    identity = row.id or _hash(text)[:12]
    meta = dict(row.keep)
    if declared.levels:
        meta[declared.levels.name] = row.level
    if row.tolerance is not None:
        meta["tolerance"] = row.tolerance
    answer = row.answer
    if answer is not None and row.wrong:
        # The right answer's place depends on the question and the seed alone, and both are on record.
        options = [answer, *row.wrong]
        order = list(range(len(options)))
        random.Random(f"options/{seed}/{identity}").shuffle(order)
        letters = LETTERS[: len(options)]
        text += "\n\n" + "\n".join(f"{letter}. {options[i]}" for letter, i in zip(letters, order, strict=True))
        meta |= {"options": order, "seed": seed}
        answer = letters[order.index(0)]
    return Question(id=identity, messages=prompt(declared, text, family), answer=answer, task=name, meta=meta)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
