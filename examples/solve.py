"""One question with A1, chunk by chunk as it is written: python examples/solve.py [DRAFT_URL TARGET_URL]"""

import sys

from a1_sgl.conformal import make
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import pocket_pair
from a1_sgl.programs import a1, stop_strings
from a1_sgl.session import Backend
from a1_sgl.types import AnswerEvent, ChunkEvent, VerdictEvent

# Asked as the pocket pair knows it; to a pair of yours a text will do.
QUESTION = find_task("chain").question("Start with 17. Add 8. Multiply by 3. Subtract 21. What is the result?")

with Backend.connect(*sys.argv[1:3]) if len(sys.argv) > 2 else pocket_pair() as pair:
    gate = make("marginal", alpha=0.25)  # from an empty bank: its first p-values are mere chance
    events = a1.stream(
        question=QUESTION, gate=gate, samples=2, turns=20, draft_tokens=32, target_tokens=32, take_over="replace",
        backend=pair, temperature=0.6, stop=stop_strings("step"),
    )  # fmt: skip
    for event in events:
        if isinstance(event, ChunkEvent):
            print(f"chain {event.sample}  {event.author:6}  {event.text.strip()}")
        elif isinstance(event, VerdictEvent):
            print(f"chain {event.sample}  p = {event.p_value:.2f}" + "  -> target" * event.take_over)
        elif isinstance(event, AnswerEvent):
            print("answer:", event.answer, dict(event.support))
