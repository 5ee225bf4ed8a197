"""Run folders made up for tests of what reads them."""

from a1_sgl.evals.grading_stage import Grading
from a1_sgl.records import Recorder, RunFolder
from a1_sgl.types import Call, ChainEvent, ChunkEvent, DropEvent, Grade, Question, VerdictEvent

CONFIGURATION = {
    "task": "chain", "split": "test", "program": "a1", "runtime": None, "asked": "abc", "chains": 2,
    "vote": "majority", "gate": {"alpha": 0.25}, "sampling": {"temperature": 0.6}, "models": {"draft": {"model": "d"}},
    "grader": "exact",
}  # fmt: skip


def call(role, kind, at):
    return Call(
        runtime=f"{role}-0", role=role, kind=kind, prompt_tokens=9, cached_tokens=5, completion_tokens=3, started=at,
        ended=at + 0.5,
    )  # fmt: skip


def same(answer, question):
    return Grade(answer == question.answer, answer)


def written(question, sample, answer, at, text="{} is it"):
    """The events of a chain: the draft's chunk is judged and replaced by the target's."""
    name = {"question": question, "sample": sample, "turn": 0}
    said = text.format(answer)
    return [
        ChunkEvent(**name, author="draft", text="wrong ", tokens=3, ended=False, calls=(call("draft", "decode", at),)),
        VerdictEvent(**name, score=2.5, tokens=3, p_value=0.1, alpha=0.25, n=9, take_over=True, replaced=True,
                     call=call("target", "verify", at + 1)),
        DropEvent(**name, author="draft", tokens=3, reason="replaced"),
        ChunkEvent(**name, author="target", text=said, tokens=3, ended=True,
                   calls=(call("target", "decode", at + 2),)),
        ChainEvent(question=question, sample=sample, text=said, answer=answer, ending="answered", turns=1,
                   take_overs=1, started=at, ended=at + 3),
    ]  # fmt: skip


def asked(count, ask="What?"):
    return {
        f"q{i}": Question(id=f"q{i}", messages=({"role": "user", "content": ask},), answer="1") for i in range(count)
    }


def run(path, answers, text="{} is it", ask="What?", write=written, grade=same, **changes):
    """A run whose question i, with reference answer 1, gets ``answers[i]``.

    `write` makes the events of a chain, and `grade` grades its answer.
    """
    configuration = CONFIGURATION | {"questions": len(answers)} | changes
    questions = asked(len(answers), ask)
    with RunFolder.open(path, configuration, {"parameters": {"draft": 1000, "target": 9000}}) as folder:
        folder.ask(questions.values())
        start = folder.run["sessions"][-1]
        with Grading(folder, questions, grade) as grading, Recorder(folder, grading.submit) as record:
            for i, chains in enumerate(answers):
                for sample, answer in enumerate(chains):
                    for event in write(f"q{i}", sample, answer, start, text):
                        record(event)
    return folder
