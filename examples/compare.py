"""Two programs on the same questions, accuracy beside cost: python examples/compare.py [DRAFT_URL TARGET_URL]"""

import sys
import tempfile
from pathlib import Path

from a1_sgl.evals.runner import Eval, evaluate
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import pocket_pair
from a1_sgl.session import Backend

PLANS = {
    "a1": {"parameters": {"take_over": "replace"}, "alpha": 0.25},
    "best_of_n": {"parameters": {"max_tokens": 256}},
}

with (
    Backend.connect(*sys.argv[1:3]) if len(sys.argv) > 2 else pocket_pair() as pair,
    tempfile.TemporaryDirectory() as folder,
):
    for program, what in PLANS.items():
        plan = Eval(
            task=find_task("chain"), split="test", program=program, runtime=None, questions=10, chains=4, seed=0,
            sampling={"temperature": 0.6}, **what,
        )  # fmt: skip
        _, summary = evaluate(plan, pair, Path(folder) / program)
        tokens = summary["tokens"]
        print(
            f"{program:10} answers right {summary['answer_accuracy']['mean']:.0%}; tokens: draft wrote "
            f"{tokens['draft_decode']:,}, target {tokens['target_decode']:,} and read {tokens['target_prefill']:,}"
        )
