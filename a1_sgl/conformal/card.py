"""Calibration cards: the scores a gate starts from, with what they were made under."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from a1_sgl.arguments import StrPath
from a1_sgl.arguments import path as as_path
from a1_sgl.compare import differences
from a1_sgl.conformal.bank import is_finite
from a1_sgl.conformal.certificate import Certificate
from a1_sgl.conformal.gate import Decider
from a1_sgl.conformal.place import Place
from a1_sgl.conformal.pvalues import scores_needed
from a1_sgl.conformal.stages import TwoStage
from a1_sgl.errors import ConfigError

SCHEMA = 2


@dataclass(frozen=True)
class Card:
    """Calibration scores and their provenance.

    Attributes:
        score: name of the score.
        scores: its values, in the order they were observed.
        places: for each, its question (an index into `questions`), chain and turn: what categories are made of. A turn
            whose chunk was drawn again has a score for each draw, in the order they were drawn.
        questions: ids of the questions they come from; none of these may be tested on.
        task: what the questions are of.
        alpha: take-over rate of the policy that they were collected under.
        protocol: program, chunking, sampling, and fingerprints of models, tokenizers and chat templates.
        packages: versions of the software that the scores depend on.
        certificate: what `a1 certify` found, if it was asked.
        evidence: values of the draft's evidence for each of `scores`, by the name of the score that a first stage goes
            by; empty where none was collected.
    """

    score: str
    scores: tuple[float, ...]
    places: tuple[tuple[int, int, int], ...]
    questions: tuple[str, ...]
    task: str
    alpha: float
    protocol: Mapping[str, Any]
    packages: Mapping[str, str | None] = field(default_factory=dict)
    certificate: Certificate | None = None
    evidence: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.scores:
            raise ConfigError("a calibration card needs at least one score")
        if not all(isinstance(s, int | float) and is_finite(s) for s in self.scores):
            raise ConfigError("a calibration card holds a score that is not a finite number")
        for name, values in self.evidence.items():
            if len(values) != len(self.scores) or not all(map(is_finite, values)):
                raise ConfigError(f"a calibration card needs a finite {name} for each of its {len(self.scores)} scores")
        if len(self.places) != len(self.scores):
            raise ConfigError(f"a calibration card holds {len(self.scores)} scores and {len(self.places)} places")
        if not all(0 <= question < len(self.questions) for question, _, _ in self.places):
            raise ConfigError("a calibration card holds a place of a question that it does not name")
        if not 0 < self.alpha < 1:
            raise ConfigError(f"the card's alpha must lie strictly between 0 and 1, not {self.alpha}")

    @property
    def smallest_alpha(self) -> float:
        """The smallest rate that a conservative p-value can attain with these scores alone, ``1 / (n + 1)``."""
        return 1 / (len(self.scores) + 1)

    @property
    def chains(self) -> int:
        """How many chains a question has."""
        return max(sample for _, sample, _ in self.places) + 1

    @cached_property
    def sha256(self) -> str:
        """Hash of everything but the versions of software and the certificate."""
        content = asdict(self) | {"packages": None, "certificate": None}
        if not self.evidence:  # a card without it is the card that it was before there was any
            del content["evidence"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def check(
        self,
        protocol: Mapping[str, Any],
        questions: Iterable[str],
        *,
        alpha: float | None = None,
        packages: Mapping[str, str | None] | None = None,
        allow: Sequence[str] = (),
    ) -> None:
        """Refuses a use that would break exchangeability.

        Args:
            protocol: what it is to be used under.
            questions: ids of the test questions.
            alpha: the rate asked for.
            packages: versions in use, if they are to be compared.
            allow: fields that may differ, such as ``sampling.temperature``, or ``sampling`` for all of it.

        Raises:
            ConfigError: a field differs, and is named; a field is allowed that does not exist; a question was
                calibrated on; or there are too few scores for alpha.
        """
        mine: dict[str, Any] = json.loads(json.dumps(self.protocol))
        theirs: dict[str, Any] = json.loads(json.dumps(protocol))
        if packages is not None:
            mine["packages"], theirs["packages"] = dict(self.packages), dict(packages)
        allow = (allow,) if isinstance(allow, str) else allow
        for name in allow:
            if not (_has(mine, name) or _has(theirs, name)):
                raise ConfigError(
                    f"--allow-mismatch {name}: there is no such field; there are {', '.join(sorted(mine))}"
                )
        changes = {line.split(":")[0]: line for line in differences(mine, theirs)}
        refused = [line for name, line in changes.items() if not any(_within(name, one) for one in allow)]
        if refused:
            first = refused[0].split(":")[0]
            raise ConfigError(
                "the calibration card was made under another set-up:\n  " + "\n  ".join(refused)
                + "\nrun a1 calibrate with this set-up; or, if you know that the scores do not depend on it, "
                f"--allow-mismatch {first}"
            )  # fmt: skip
        if overlap := sorted(set(self.questions) & set(questions)):
            raise ConfigError(
                f"{len(overlap)} test questions are among the card's calibration questions, {overlap[0]} first; "
                "test on another split"
            )
        if alpha is not None and len(self.scores) < (need := scores_needed(alpha)):
            raise ConfigError(
                f"the calibration card holds {len(self.scores)} scores; alpha {alpha:g} needs at least {need}, or else "
                "draws would say what is handed over, and not scores: calibrate on more questions"
            )

    def fill(self, gate: Decider) -> None:
        """Puts every score into `gate`, in the order they were observed; the k-th score of a place is its attempt k.

        A first stage that goes by evidence that the card holds starts from it; any other learns from the run alone.
        """
        seen: Counter[tuple[int, int, int]] = Counter()
        firsts = self.evidence.get(gate.first.name) if isinstance(gate, TwoStage) else None
        for i, (score, (question, sample, turn)) in enumerate(zip(self.scores, self.places, strict=True)):
            place = Place(self.questions[question], sample, turn, self.task, seen[question, sample, turn])
            if isinstance(gate, TwoStage):
                gate.calibrate(score, **place._asdict(), first=None if firsts is None else firsts[i])
            else:
                gate.calibrate(score, **place._asdict())
            seen[question, sample, turn] += 1

    def save(self, path: StrPath) -> None:
        """Writes the card as JSON."""
        path = as_path(path, "a card's file")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"schema": SCHEMA, **asdict(self), "smallest_alpha": self.smallest_alpha}
        # One line a field: places would fill pages one number a line.
        lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
        draft = path.with_name(path.name + ".tmp")
        draft.write_text("{\n" + lines + "\n}\n")
        draft.replace(path)

    @classmethod
    def load(cls, path: StrPath) -> Card:
        """Reads a card.

        Raises:
            ConfigError: the file is missing, is no card, or has another schema.
        """
        path = as_path(path, "a card's file")
        try:
            content = json.loads(path.read_text())
            if not isinstance(content, dict) or "schema" not in content:
                raise ConfigError("it has no schema; make one with a1 calibrate")
            if "configuration" in content:
                raise ConfigError("it is the record of a run; the card that a1 calibrate makes is beside it, card.json")
            if (schema := content.pop("schema")) != SCHEMA:
                raise ConfigError(
                    f"its schema is {schema}, this version reads {SCHEMA}; make it anew with a1 calibrate"
                )
            content.pop("smallest_alpha", None)
            known = {one.name: one.default is MISSING and one.default_factory is MISSING for one in fields(cls)}
            if absent := [name for name, needed in known.items() if needed and name not in content]:
                raise ConfigError(f"it is no card: it has no {', '.join(absent)}; make one with a1 calibrate")
            if unknown := [name for name in content if name not in known]:
                raise ConfigError(f"it has {unknown[0]!r}, which no card has; make it anew with a1 calibrate")
            content["places"] = tuple((q, s, t) for q, s, t in content["places"])
            content |= {"scores": tuple(content["scores"]), "questions": tuple(content["questions"])}
            if content.get("certificate") is not None:
                content["certificate"] = Certificate.from_json(content["certificate"])
            return cls(**content)
        except FileNotFoundError:
            raise ConfigError(f"calibration card {path} does not exist; make one with a1 calibrate") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"calibration card {path} cannot be used: {error}") from error


def _within(name: str, field: str) -> bool:
    return name == field or name.startswith(field + ".")


def _has(content: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True
