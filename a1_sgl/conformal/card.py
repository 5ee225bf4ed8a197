"""Calibration cards: the scores a gate starts from, with what they were made under."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from a1_sgl.compare import differences
from a1_sgl.errors import ConfigError

SCHEMA = 1


@dataclass(frozen=True)
class Card:
    """Calibration scores and their provenance.

    Attributes:
        score: name of the score.
        scores: its values, in the order they were observed.
        questions: ids of the questions they come from; none of these may be tested on.
        alpha: take-over rate of the policy that they were collected under.
        protocol: task, program, parameters, sampling, and fingerprints of models, tokenizers and chat templates.
        environment: versions of software; recorded, not compared.
    """

    score: str
    scores: tuple[float, ...]
    questions: tuple[str, ...]
    alpha: float
    protocol: Mapping[str, Any]
    environment: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.scores:
            raise ConfigError("a calibration card needs at least one score")
        if not all(isinstance(s, int | float) and math.isfinite(s) for s in self.scores):
            raise ConfigError("a calibration card holds a score that is not a finite number")
        if not 0 < self.alpha < 1:
            raise ConfigError(f"the card's alpha must lie strictly between 0 and 1, not {self.alpha}")

    @cached_property
    def sha256(self) -> str:
        """Hash of everything but the environment."""
        content = asdict(self) | {"environment": None}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def check(self, protocol: Mapping[str, Any], questions: Iterable[str]) -> None:
        """Refuses a use that would break exchangeability.

        Raises:
            ConfigError: `protocol` differs, with the field named, or a question was calibrated on.
        """
        if changes := differences(self.protocol, json.loads(json.dumps(protocol))):
            raise ConfigError(
                "the calibration card was made under another set-up:\n  " + "\n  ".join(changes)
                + "\nrun a1 calibrate with this set-up, or without a card the gate starts from an empty bank"
            )  # fmt: skip
        if overlap := sorted(set(self.questions) & set(questions)):
            raise ConfigError(
                f"{len(overlap)} test questions are among the card's calibration questions, {overlap[0]} first; "
                "test on another split"
            )

    def save(self, path: Path) -> None:
        """Writes the card as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Card:
        """Reads a card.

        Raises:
            ConfigError: the file is missing, is no card, or has another schema.
        """
        try:
            content = json.loads(path.read_text())
            if not isinstance(content, dict) or "schema" not in content:
                raise ConfigError("it has no schema; make one with a1 calibrate")
            if (schema := content.pop("schema")) != SCHEMA:
                raise ConfigError(f"its schema is {schema}, this version reads {SCHEMA}")
            return cls(**content | {"scores": tuple(content["scores"]), "questions": tuple(content["questions"])})
        except FileNotFoundError:
            raise ConfigError(f"calibration card {path} does not exist; make one with a1 calibrate") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"calibration card {path} cannot be used: {error}") from error
