"""A score, a vote and a gate of one's own under a library program: python examples/compose.py [DRAFT_URL TARGET_URL]"""

import statistics
import sys

from a1_sgl.conformal import Gate, MondrianBank, score
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import pocket_pair
from a1_sgl.programs import a1, stop_strings
from a1_sgl.session import Backend
from a1_sgl.voting import vote


@score("median", "median loss of the target")
def median(evidence):
    """Not disturbed by one odd token."""
    return statistics.median(evidence.target)


@vote("fewest-take-overs")
def fewest(chains):
    """A chain counts the more, the fewer of its turns the target had to write."""
    return [1 / (1 + chain.take_overs) for chain in chains]


with Backend.connect(*sys.argv[1:3]) if len(sys.argv) > 2 else pocket_pair() as pair:
    gate = Gate(0.25, MondrianBank("turn"))  # a bank for each turn
    for question in find_task("chain").questions("test", 5, levels="6:10"):
        result = a1.run(
            question=question, gate=gate, samples=4, score="median", vote="fewest-take-overs", take_over="replace",
            turns=24, draft_tokens=32, target_tokens=32, backend=pair, temperature=0.6, stop=stop_strings("line"),
        ).ret_value  # fmt: skip
        print(question.id, "right" if result.answer == question.answer else "wrong", result.support)
