"""Tasks: benchmarks as declarations, one YAML file each; a user's own file is as good as ours."""

from __future__ import annotations

from pathlib import Path

from a1_sgl.arguments import StrPath
from a1_sgl.arguments import path as as_path
from a1_sgl.errors import ConfigError
from a1_sgl.evals.tasks.declared import HERE, families, load
from a1_sgl.evals.tasks.task import Levels, Task, sha256

__all__ = ["TASKS", "Levels", "Task", "families", "find_task", "sha256", "task_file"]

TASKS = tuple(sorted(path.stem for path in HERE.glob("*.yaml") if path.stem != "families"))
"""Names of the tasks that come with the package."""


def task_file(name: StrPath) -> Path:
    """The declaration of a task: a name in `TASKS`, or the path of a YAML file.

    Raises:
        ConfigError: there is none.
    """
    name = str(as_path(name, "a task's name or file"))
    if name in TASKS:
        return HERE / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    raise ConfigError(
        f"unknown task {name!r}; known: {', '.join(TASKS)} (see: a1 tasks), or a file of yours, such as my_task.yaml"
    )


def find_task(name: StrPath, data: StrPath | None = None) -> Task:
    """The task of that name, or of that file.

    Args:
        data: file or folder with its rows, instead of the hub.

    Raises:
        ConfigError: there is none, or its file declares none.
    """
    return load(task_file(name), as_path(data, "data") if data is not None else None)
