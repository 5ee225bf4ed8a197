"""Learn then Test on real runs: target alone against the program at several alphas, on the same questions."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from a1_sgl.conformal import Card, Certificate, certify, questions_needed, regressions
from a1_sgl.errors import A1Error, ConfigError
from a1_sgl.evals.runner import Eval, Progress, calibrate, evaluate
from a1_sgl.programs import PROGRAMS
from a1_sgl.records import ChainRecord, RunFolder
from a1_sgl.session import Backend
from a1_sgl.session.roles import TARGET


def certify_alphas(
    plan: Eval,
    alphas: Sequence[float],
    epsilon: float,
    delta: float,
    backend: Backend,
    out: Path,
    progress: Progress | None = None,
) -> tuple[Certificate, tuple[Card, dict[str, Any]] | None]:
    """Runs the target alone and then `plan` at each alpha, from the largest down, until one cannot be certified.

    A question is answered by the vote of its chains, and lost where the target's vote is right and the program's wrong.
    Runs are in folders of `out`, each resumable; ``certificate.json`` is what was found.

    Returns:
        The certificate, and the card and summary of the cheapest certified alpha, or None.

    Raises:
        ConfigError: too few questions to certify anything, named with the number needed, or as in `evaluate`.
        A1Error: chains were lost, so that there is no answer to judge.
    """
    if (count := len(plan.asked)) < (need := questions_needed(epsilon, delta)):
        raise ConfigError(
            f"{count} questions cannot certify epsilon {epsilon:g} at delta {delta:g}, even with no loss at "
            f"all; --questions must be at least {need}"
        )
    plans = {alpha: replace(plan, alpha=alpha) for alpha in sorted(alphas, reverse=True)}
    known = PROGRAMS["direct"].own
    alone = replace(
        plan, program="direct", runtime="target", alpha=None,
        parameters={name: value for name, value in plan.parameters.items() if name in known},
    )  # fmt: skip
    reference = _votes(*evaluate(alone, backend.alone(TARGET), out / "target", progress), plan)
    losses: dict[float, list[bool]] = {}
    cards: dict[float, tuple[Card, dict[str, Any]]] = {}
    for alpha, one in plans.items():
        folder = out / f"alpha-{alpha:g}"
        cards[alpha] = calibrate(one, backend, folder, progress)
        losses[alpha] = regressions(_votes(RunFolder.read(folder), cards[alpha][1], plan), reference)
        certificate = certify(losses, epsilon, delta)
        if not certificate.tests[-1].certified:  # the sequence ends here, so what is cheaper need not be run
            break
    content = asdict(certificate)
    (out / "certificate.json").write_text(json.dumps(content, indent=1) + "\n")
    if certificate.alpha is None:
        return certificate, None
    card, summary = cards[certificate.alpha]
    return certificate, (replace(card, certificate=content), summary)


def _votes(folder: RunFolder, summary: dict[str, Any], plan: Eval) -> list[bool]:
    """Whether each question's vote is right, in the order of the questions."""
    if summary["chains_lost"]:
        raise A1Error(
            f"{summary['chains_lost']} chains were lost, so nothing is certified; the same command runs them again"
        )
    chains: dict[str, list[ChainRecord]] = defaultdict(list)
    for chain in sorted(folder.chains, key=lambda chain: chain.sample):
        chains[chain.question].append(chain)
    return [vote(chains[question.id]) for question in plan.asked]


def vote(chains: Sequence[ChainRecord]) -> bool:
    """Whether the answer that most chains give is right; among equals the earliest chain's, no answer is no vote."""
    votes = Counter(chain.answer for chain in chains if chain.answer is not None)
    if not votes:
        return False
    most = max(votes, key=lambda answer: votes[answer])
    return any(chain.correct for chain in chains if chain.answer == most)
