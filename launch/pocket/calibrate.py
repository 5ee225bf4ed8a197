"""Makes the calibration card of a pocket pair: ``python -m a1_sgl.launch.pocket.calibrate chain``; a minute or two.

It is for `a1` as the task has it, and lies beside the pair; whoever trains the pair makes it again.
"""

from __future__ import annotations

import sys
import tempfile

from a1_sgl.evals.runner import Eval, calibrate
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import card_path, pocket_pair

QUESTIONS = 40
CHAINS = 4
ALPHA = 0.25


def main(name: str) -> None:
    """Serves the pair of task `name`, and writes its card."""
    task = find_task(name)
    plan = Eval(
        task=task, split="calibration", program="a1", runtime=None, chains=CHAINS, questions=QUESTIONS, alpha=ALPHA,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, pocket_pair(name) as pair:
        card, _ = calibrate(plan, pair, folder)
    card.save(card_path(name))
    print(f"{len(card.scores):,} scores: {card_path(name)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
