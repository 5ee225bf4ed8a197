"""What the page's chain browser shows: every chain of a question in every run, chunk by chunk."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from a1_sgl.conformal import SCORES
from a1_sgl.errors import ConfigError
from a1_sgl.evals.metrics import chains_by_question
from a1_sgl.programs import find_program
from a1_sgl.records import ChainRecord, RunFolder
from a1_sgl.types import PROGRAM, AuditEvent, ChunkEvent, DropEvent, RatingEvent, VerdictEvent
from a1_sgl.voting import counted, decide

EMBEDDED = 20_000_000
"""Characters of data up to which a page takes up questions without a failure; those with one are always there."""
KINDS = ("draft", "target", PROGRAM, "dropped")
"""How a chunk is shown."""
LOST = "lost"
OWN = "score"
"""Name of what a program judges by that takes no score by name."""
RATING = "rating"
"""Name of what stands in a score's place where that is made of a judge's rating."""

Name = tuple[str, int]


@dataclass(frozen=True)
class Browsed:
    """What goes into the page.

    Attributes:
        runs: for the page's script.
        says: how many of how many questions are there.
        keys: what each run's scores are.
        authors: who wrote anything, and whether anything was dropped.
    """

    runs: list[dict[str, Any]]
    says: str
    keys: list[str]
    authors: list[str]


class _Asked(NamedTuple):
    """A question as one run has it: what it is the same question by in all of them, its vote, and what is shown."""

    key: str
    vote: tuple[bool, str | None]
    shown: dict[str, Any]


def browsed(runs: Mapping[str, RunFolder], most: int = EMBEDDED) -> Browsed:
    """The questions with a failure in any run, and the others as long as all of it is at most `most` characters."""
    found = {name: _questions(folder) for name, folder in runs.items()}
    asked: defaultdict[str, list[_Asked]] = defaultdict(list)
    for one in itertools.chain(*found.values()):
        asked[one.key].append(one)
    for same in asked.values():
        apart = len({one.vote for one in same}) > 1
        for one in same:
            one.shown["apart"] = apart
    failed = {
        key for key, same in asked.items() if any(_failed(chain) for one in same for chain in one.shown["chains"])
    }
    kept: set[str] = set()
    size = 0
    for key in sorted(asked, key=lambda key: key not in failed):  # stable: else in the order they were asked
        size += sum(len(json.dumps(one.shown, ensure_ascii=False)) for one in asked[key])
        if key in failed or size <= most:
            kept.add(key)
    if len(kept) == len(asked):
        says = f"{len(kept)} of {len(asked)} questions are in this page, {len(failed)} with a wrong or lost chain."
    else:
        says = (
            f"{len(kept)} of {len(asked)} questions are in this page: all {len(failed)} with a wrong or lost chain"
            f"{' in any run' if len(runs) > 1 else ''}, and as many others as {most / 1e6:g} MB hold. The rest is in "
            f"the run folder{'s' if len(runs) > 1 else ''}."
        )
    shown: list[dict[str, Any]] = [
        {
            "name": name, **_measures(runs[name]), "questions": (here := [q.shown for q in questions if q.key in kept]),
            "left_out": len(questions) - len(here),
        }
        for name, questions in found.items()
    ]  # fmt: skip
    chunks = [k for run in shown for q in run["questions"] for chain in q["chains"] for k in chain["chunks"]]
    authors = {_kind(chunk["author"]) for chunk in chunks} | {"dropped" for chunk in chunks if chunk["dropped"]}
    return Browsed(shown, says, _keys(shown), [kind for kind in KINDS if kind in authors])


def _kind(author: str) -> str:
    return author if author in ("draft", "target") else PROGRAM


def _failed(chain: Mapping[str, Any]) -> bool:
    """A chain that was stopped had no chance to be right."""
    return not chain["correct"] and chain["ending"] != "stopped"


def _measures(folder: RunFolder) -> dict[str, str]:
    """Names of the score that chunks were decided by, and of the evidence that a first stage saw."""
    configuration = folder.run["configuration"]
    name = configuration.get("score", OWN)
    try:  # some programs decide by a measure of their own
        if "score" not in find_program(configuration["program"]).own:
            name = OWN
    except ConfigError:  # a file that is not there any more
        pass
    if any(isinstance(event, VerdictEvent) and event.rating is not None for event in folder.events):
        name = RATING
    first = (configuration["gate"] or {}).get("first")
    return {"score": name, "first": first["score"] if first else ""}


def _keys(shown: list[dict[str, Any]]) -> list[str]:
    """One line for each measure that occurs."""
    decided = [run for run in shown if any(
        k["score"] is not None or "stage" in k for q in run["questions"] for c in q["chains"] for k in c["chunks"]
    )]  # fmt: skip
    names = dict.fromkeys(name for run in decided for name in (run["score"], run["first"]) if name)
    about = {name: score.about for name, score in SCORES.items()}
    about |= {
        OWN: "what the program itself judges a chunk by",
        RATING: "the target's, from 0 (certainly wrong) to 9 (certainly right); the p-value is that of 9 less it",
    }
    return [f"{name}: {about.get(name, 'a score of your own')}" for name in names]


def _questions(folder: RunFolder) -> list[_Asked]:
    """In the order they were asked."""
    chunks, raters = _chunks(folder)
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for chain in folder.chains:
        groups[chain.question].append({
            "sample": chain.sample, "answer": chain.answer,
            "counts_as": None if chain.answer is None else counted(chain),
            "correct": chain.correct, "ending": chain.ending, "note": chain.note,
            "rating": chain.rating, "rater": raters.get(chain.question, ""),
            "seconds": round(chain.ended - chain.started, 2), "chunks": chunks[chain.question, chain.sample],
        })  # fmt: skip
    for (question, sample), error in folder.lost().items():
        groups[question].append({
            "sample": sample, "answer": None, "counts_as": None, "correct": False, "ending": LOST, "note": error,
            "rating": None, "rater": "", "seconds": None, "chunks": [],
        })  # fmt: skip
    asked, graded = folder.questions(), chains_by_question(folder)
    gold = {chain.question: chain.gold for chain in folder.chains}
    found = []
    for question in [*(one for one in asked if one in groups), *(one for one in groups if one not in asked)]:
        messages = [str(m["content"]) for m in asked[question].messages] if question in asked else [question]
        shown = {
            "id": question,
            "text": "\n".join(messages),
            "title": messages[-1][:60] if question in asked else "",
            "gold": gold[question] if question in gold else asked[question].answer if question in asked else None,
            "chains": sorted(groups[question], key=lambda one: one["sample"]),
        }
        found.append(_Asked("\n".join([question, *messages]), _vote(folder, graded.get(question, [])), shown))
    return found


def _vote(folder: RunFolder, chains: list[ChainRecord]) -> tuple[bool, str | None]:
    """Whether the vote's answer is right, and of a wrong one which it is; two that are alike compare equal."""
    answer = decide(folder.run["configuration"]["vote"], chains)
    same = [chain for chain in chains if chain.answer == answer]
    if answer is None or any(chain.correct for chain in same):
        return answer is not None, None
    return False, counted(same[0])


def _chunks(folder: RunFolder) -> tuple[defaultdict[Name, list[dict[str, Any]]], dict[str, str]]:
    """Every chain's chunks in order, each with what was decided on it, and those that were taken back out marked; and
    whose opinion the ratings of a question's chains are."""
    found: defaultdict[Name, list[dict[str, Any]]] = defaultdict(list)
    raters: dict[str, str] = {}
    judged: dict[Any, dict[str, Any]] = {}
    for event in folder.events:
        if isinstance(event, ChunkEvent):
            found[event.question, event.sample].append({
                "turn": event.turn, "author": event.author, "text": event.text, "tokens": event.tokens,
                "score": None, "p": None, "level": None, "over": False, "dropped": None,
            })  # fmt: skip
        elif isinstance(event, VerdictEvent) and (chunks := found[event.question, event.sample]):
            judged[event.place] = chunk = chunks[-1]
            chunk |= {
                "score": None if event.unseen else _short(event.score if event.rating is None else event.rating),
                "p": _short(event.p_value),
                "level": _short(event.alpha), "over": event.take_over,
            }  # fmt: skip
            if event.p_value is not None:
                chunk["n"] = event.n
            if event.screening is not None:
                stage = event.screening
                chunk["stage"] = {"score": _short(stage.score), "p": _short(stage.p_value), "outcome": stage.outcome}
            if event.losses is not None:
                chunk["losses"] = [[piece, round(loss, 3)] for piece, loss in event.losses]
            if event.audit:
                chunk["audit"] = "no answer, counts as wrong"
        elif isinstance(event, AuditEvent) and event.place in judged:
            judged[event.place]["audit"] = event.error or ("wrong" if event.wrong else "right")
        elif isinstance(event, RatingEvent):
            # Where one model is alone it is asked whoever ought to be: a target's opinion is one only of a target.
            raters[event.question] = f"{event.call.role}'s, asked" if event.by == "judge" else f"{event.call.role}'s"
        elif isinstance(event, DropEvent):
            left = event.tokens
            for chunk in reversed(found[event.question, event.sample]):
                if left <= 0:
                    break
                if chunk["dropped"] is None and chunk["author"] == event.author:
                    chunk["dropped"] = event.reason
                    left -= chunk["tokens"]
    return found, raters


def _short(value: float | None) -> float | None:
    """Enough digits to tell a p-value from its level."""
    return None if value is None else float(f"{value:.7g}")
