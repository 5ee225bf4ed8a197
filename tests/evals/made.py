"""Run folders made up for tests of what reads them."""

from a1_sgl.records import Recorder, RunFolder
from a1_sgl.types import Call, ChainEvent, ChunkEvent, DropEvent, Grade, Question, VerdictEvent

CONFIGURATION = {
    "task": "chain", "split": "test", "program": "a1", "runtime": None, "asked": "abc", "chains": 2,
    "vote": "majority", "gate": {"alpha": 0.25}, "sampling": {"temperature": 0.6}, "models": {"draft": {"model": "d"}},
}  # fmt: skip


def call(runtime, kind, at):
    return Call(
        runtime=runtime, kind=kind, prompt_tokens=9, cached_tokens=5, completion_tokens=3, started=at, ended=at + 0.5
    )


def run(path, answers, text="{} is it", ask="What?", **changes):
    """A run whose question i, with reference answer 1, gets ``answers[i]``."""
    configuration = CONFIGURATION | {"questions": len(answers)} | changes
    folder = RunFolder.open(path, configuration, {"parameters": {"draft": 1000, "target": 9000}})
    start = folder.run["sessions"][-1]
    questions = {
        f"q{i}": Question(id=f"q{i}", messages=({"role": "user", "content": ask},), answer="1")
        for i in range(len(answers))
    }
    folder.ask(questions.values())
    record = Recorder(folder, questions, lambda answer, question: Grade(answer == question.answer, answer))
    for i, chains in enumerate(answers):
        for sample, answer in enumerate(chains):
            name = {"question": f"q{i}", "sample": sample, "turn": 0}
            written = text.format(answer)
            record(ChunkEvent(**name, author="draft", text="wrong ", tokens=3, ended=False,
                              calls=(call("draft", "decode", start),)))  # fmt: skip
            record(VerdictEvent(**name, score=2.5, tokens=3, p_value=0.1, alpha=0.25, n=9, take_over=True,
                                replaced=True, call=call("target", "verify", start + 1)))  # fmt: skip
            record(DropEvent(**name, author="draft", tokens=3, reason="replaced"))
            record(ChunkEvent(**name, author="target", text=written, tokens=3, ended=True,
                              calls=(call("target", "decode", start + 2),)))  # fmt: skip
            record(ChainEvent(question=f"q{i}", sample=sample, text=written, answer=answer, ending="answered",
                              turns=1, take_overs=1, started=start, ended=start + 3))  # fmt: skip
    return folder
