"""One model, sixteen chains, stopped as soon as the vote is decided: python examples/vote.py [URL]"""

import sys

from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import pocket_pair
from a1_sgl.programs import self_consistency
from a1_sgl.session import Backend

# Asked as the pocket pair knows it; to a model of yours a text will do.
QUESTION = find_task("chain").question("Start with 17. Add 8. Multiply by 3. Subtract 21. What is the result?")

with Backend.connect(draft=sys.argv[1]) if len(sys.argv) > 1 else pocket_pair() as backend:
    state = self_consistency.run(
        question=QUESTION, samples=16, stop_when="decided", max_tokens=256, temperature=0.6,
        backend=backend.alone("draft"),
    )  # fmt: skip
    result = state.ret_value
    for chain in result.chains:
        print(f"chain {chain.sample:2}  {chain.ending:8}  {chain.answer}")
    print("answer:", result.answer, result.support, "for", result.usage.decode, "tokens")
