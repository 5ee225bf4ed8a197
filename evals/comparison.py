"""Comparing runs: paired by question, or not at all."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, permutation_test

from a1_sgl.compare import differences
from a1_sgl.conformal.rates import LEVEL
from a1_sgl.errors import ConfigError
from a1_sgl.evals.metrics import summarise, voted
from a1_sgl.records import ChainRecord, RunFolder
from a1_sgl.types import Question

SAME = ("task", "split", "asked", "chains", "sampling")
"""What two runs must share for a difference to be that of their programs."""
RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """How a run differs from another on the same questions; shares, in [0, 1].

    Attributes:
        mean: of the accuracy of a question's chains, averaged over questions: the second run's less the first's.
        low, high: 95% interval by a paired bootstrap over questions (percentiles); where all differ by the same, by the
            exact bound on the share of questions that may not.
        gained, lost: questions that only the second, or only the first, answers right by its vote.
        p_value: McNemar's exact test on these.
        sign_flip: of the mean, the paired permutation test, which is exact at any number of questions: the share of all
            ways to give each question's difference either sign (or of 10,000 of them) with a mean as far from 0.
        questions: how many there are.
    """

    mean: float
    low: float
    high: float
    gained: int
    lost: int
    p_value: float
    sign_flip: float
    questions: int

    @property
    def certain(self) -> bool:
        """Whether the interval and the test of the same mean both say that there is one."""
        return (self.low > 0 or self.high < 0) and self.sign_flip <= 1 - LEVEL


def by_question(folder: RunFolder) -> dict[str, list[ChainRecord]]:
    """Chains by question, in order of their sample; those that were stopped do not count."""
    groups: defaultdict[str, list[ChainRecord]] = defaultdict(list)
    for chain in sorted(folder.chains, key=lambda one: one.sample):
        if chain.ending != "stopped":
            groups[chain.question].append(chain)
    return dict(groups)


def check(folders: Sequence[RunFolder], allow: Sequence[str] = ()) -> None:
    """Refuses runs whose difference would not be that of their programs.

    Raises:
        ConfigError: fewer than two runs, one that is not finished, or a field of `SAME`, or a model that both use,
            that differs and is not in `allow`; each is named.
    """
    if len(folders) < 2:
        raise ConfigError("a comparison takes two runs or more")
    if unknown := [name for name in allow if name.partition(".")[0] not in (*SAME, "models", "unfinished")]:
        raise ConfigError(f"--allow takes {', '.join((*SAME, 'models', 'unfinished'))}, not {unknown[0]!r}")
    first = folders[0]
    for folder in folders:
        configuration = folder.run["configuration"]
        planned = configuration["questions"] * configuration["chains"]
        if len(folder.chains) < planned and "unfinished" not in allow:
            raise ConfigError(
                f"{folder.path} has {len(folder.chains)} of its {planned} chains; the same `a1 eval` goes on with it, "
                "or --allow unfinished compares the questions that both have"
            )
    for folder in folders[1:]:
        one, other = first.run["configuration"], folder.run["configuration"]
        plain = [key for key in SAME if key != "asked"]  # which is a hash
        apart = [line for key in plain for line in differences(one.get(key), other.get(key), key)]
        if one.get("asked") != other.get("asked"):
            apart.append(_asked(first.questions(), folder.questions()))
        for name in sorted(one["models"].keys() & other["models"].keys()):
            apart += differences(one["models"][name], other["models"][name], f"models.{name}")
        apart = [line for line in apart if not any(re.match(rf"{re.escape(field)}[.:]", line) for field in allow)]
        if apart:
            told = "\n  ".join(line.replace(" before,", " there,").replace(" now", " here") for line in apart)
            raise ConfigError(
                f"{folder.path} is not comparable with {first.path}:\n  {told}\n"
                "run both with the same of these, or name a field with --allow"
            )


def _asked(there: Mapping[str, Question], here: Mapping[str, Question]) -> str:
    both = there.keys() & here.keys()
    other = sum(there[name] != here[name] for name in both)
    line = f"asked: {len(there)} questions there, {len(here)} here, {len(both)} in both"
    line += f", of which {other} have another text or answer" if other else ""
    return f"{line}; --allow asked compares those in both" if both else line


def difference(first: RunFolder, second: RunFolder, seed: int = 0) -> Difference:
    """How `second` differs from `first`, on the questions that both have.

    Raises:
        ConfigError: there are none.
    """
    one, other = by_question(first), by_question(second)
    names = sorted(one.keys() & other.keys())
    if not names:
        raise ConfigError(f"{first.path} and {second.path} have no question in common")
    means = [_share(other[name]) - _share(one[name]) for name in names]
    pairs = [(_vote(first, one[name]), _vote(second, other[name])) for name in names]
    gained, lost = sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)
    draws = np.random.default_rng(seed).choice(np.array(means), (RESAMPLES, len(means))).mean(axis=1)
    low, high = (float(one) for one in np.quantile(draws, (0.025, 0.975)))
    if len(set(means)) == 1:  # resampling knows of no other; so many questions may still differ, each by all of it
        slack = (1 - 0.025 ** (1 / len(means))) * (1 + abs(means[0]))
        low, high = max(-1.0, means[0] - slack), min(1.0, means[0] + slack)
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Difference(statistics.fmean(means), low, high, gained, lost, p_value, _sign_flip(means, seed), len(names))


def _sign_flip(means: Sequence[float], seed: int) -> float:
    if len(means) < 2 or not any(means):
        return 1.0
    found = permutation_test(
        (np.array(means),), np.mean, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def compare(
    folders: Mapping[str, RunFolder],
    allow: Sequence[str] = (),
    summaries: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Every pair of runs: names, their difference, the chains that each has lost, and the ratios of what they cost.

    `summaries` are theirs where they are known.

    Errors as in `check`.
    """
    check(list(folders.values()), allow)
    summaries = summaries or {name: summarise(folder) for name, folder in folders.items()}
    return [
        {
            "first": a,
            "second": b,
            "difference": difference(folders[a], folders[b]),
            "chains_lost": {name: summaries[name]["chains_lost"] for name in (a, b)},
            "cost": {
                "target decode tokens": _ratio(summaries[b], summaries[a], "tokens", "target_decode"),
                "FLOPs": _ratio(summaries[b], summaries[a], "flops", "all"),
                "wall-clock": _ratio(summaries[b], summaries[a], "wall_s"),
            },
        }
        for a, b in itertools.combinations(folders, 2)
    ]


def sentence(row: Mapping[str, Any]) -> str:
    """A comparison in words."""
    d: Difference = row["difference"]
    interval = f"[{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
    if d.certain:
        more = "more" if d.mean > 0 else "less"
        said = f"{row['second']} is {100 * abs(d.mean):.1f} points {more} accurate than {row['first']} {interval}"
    else:
        said = f"{row['second']} and {row['first']} cannot be told apart: {100 * d.mean:+.1f} points {interval}"
    said += f", paired permutation p = {d.sign_flip:.2g}"
    votes = (
        f"by its vote it gains {d.gained} and loses {d.lost} of {d.questions} questions (McNemar p = {d.p_value:.2g})"
    )
    known = {name: value for name, value in row["cost"].items() if value is not None}
    costs = ", ".join(f"{value:.2f} times the {name}" for name, value in known.items())
    return f"{said}; {votes}." + (f" It takes {costs}." if costs else "")


def _ratio(mine: Any, theirs: Any, *path: str) -> float | None:
    for key in path:
        mine, theirs = mine and mine.get(key), theirs and theirs.get(key)
    return mine / theirs if mine is not None and theirs and math.isfinite(theirs) else None


def _share(chains: Sequence[ChainRecord]) -> float:
    return statistics.fmean(chain.correct for chain in chains)


def _vote(folder: RunFolder, chains: Sequence[ChainRecord]) -> bool:
    return voted(folder.run["configuration"]["vote"], chains)
