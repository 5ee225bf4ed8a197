"""Questions of a task for other harnesses: python questions.py TASK COUNT > questions.jsonl

They are those of ``a1 eval --task TASK --questions COUNT``; each line has the question and its answer.
"""

import json
import sys

from a1_sgl.evals.tasks import find_task

for question in find_task(sys.argv[1]).questions("test", int(sys.argv[2]), 0):
    (asked,) = [one["content"] for one in question.messages if one["role"] == "user"]
    print(json.dumps({"id": question.id, "question": asked, "answer": question.answer}))
