"""Evals whose accepted chunks are audited: on record, in the summary, and on resume; and the audit `exact`."""

import itertools
import json

import pytest

from a1_sgl.conformal import AuditedGate, false_accepts
from a1_sgl.errors import ConfigError
from a1_sgl.evals import chain as chains
from a1_sgl.evals import exact, report, stories
from a1_sgl.evals.metrics import audits, summarise
from a1_sgl.evals.runner import Eval, Interrupted, evaluate, resume
from a1_sgl.evals.tasks import find_task
from a1_sgl.records import RunFolder
from a1_sgl.types import AuditEvent, LostEvent, VerdictEvent, unanswered

from .storytellers import pair, question

TASK = find_task("stories")
TOKENS = {"draft_tokens": 300, "target_tokens": 300}  # a fake's tokens are bytes


def plan(**changes):
    settings = {
        "task": TASK, "split": "test", "program": "a1", "runtime": None, "questions": 10, "chains": 2, "seed": 3,
        "sampling": {"temperature": 0.6, "top_p": 1.0}, "alpha": 0.25, "gate_kind": "audited", "epsilon": 0.05,
        "audit_rate": 0.5, "parameters": TOKENS,
    }  # fmt: skip
    return Eval(**settings | changes)


def of(folder, kind):
    return [event for event in folder.events if isinstance(event, kind)]


# --- the audit `exact` ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [chains, stories])
def test_a_question_is_read_back_and_its_solution_is_right(task):
    for problem in itertools.islice(task.problems("test", 2), 60):
        assert task.read(problem.text) == problem
        before = ""
        for line in problem.lines:
            assert problem.follows(before, line)
            before += f"{line}\n\n"
        assert not problem.follows(before, problem.lines[-1])  # there is nothing left to say
        assert exact.right(problem, "", before)
        assert not exact.right(problem, problem.lines[0], before)
    with pytest.raises(ValueError, match="no problem of"):
        task.read("What is 1 + 1?")
    with pytest.raises(ValueError, match=r"exact knows steps of generated tasks alone, not of question q"):
        exact.problem(question(problem).model_copy(update={"messages": ({"role": "user", "content": "What?"},)}))


def test_every_other_line_of_a_story_is_wrong():
    problem = stories.read(
        "Mia has 238 marbles. Then she finds 47. Then she trades each for 3. Then she loses 196. How many marbles does "
        "she have now?"
    )  # fmt: skip
    first, second, third, last = problem.lines
    assert first.endswith("hundreds 2; so Mia has 285 marbles.")
    wrong = first.replace("+ 1 = 8", "= 7").replace("285", "275")
    for line in (wrong, first.replace("285", "286"), first.replace("47", "46"), second, last, "", "Step 1: 285"):
        assert not exact.right(problem, "", line), line
    built = problem.line(1, 275, problem.steps[1])
    assert exact.right(problem, wrong, built)  # faithful to an error that is not its own
    assert not exact.right(problem, wrong, second)
    assert exact.right(problem, wrong, f"Wait, step 1 is wrong: {first}")
    assert not exact.right(problem, wrong, f"Wait, step 1 is wrong: {wrong}")
    assert not exact.right(problem, wrong, f"Wait, step 9 is wrong: {first}")
    assert exact.right(problem, f"{first}\n\n{second}\n\n{third}", last)
    assert exact.right(problem, f"{wrong}\n\n{last}", f"Wait, the answer is wrong: {last}")
    assert exact.right(problem, f"{first}\n\n{second}\n\n{third}\n\n{last}", " \n")


def test_every_other_line_of_a_chain_is_wrong():
    problem = chains.read("Start with 39. Multiply by 2. Subtract 18. Add 7. What is the result?")
    assert exact.right(problem, "", "39 * 2 = 78")
    for line in ("39 * 2 = 79", "39 * 3 = 117", "78 - 18 = 60", "The answer is \\boxed{78}.", "Wait, 39 * 2 = 78"):
        assert not exact.right(problem, "", line), line
    assert exact.right(problem, "39 * 2 = 79\n\n", "79 - 18 = 61")
    assert exact.right(problem, "39 * 2 = 79\n\n", "Wait, 39 * 2 = 78")
    assert exact.right(problem, "39 * 2 = 79\n\nWait, 39 * 2 = 78", "78 - 18 = 60\n\n60 + 7 = 67")
    assert not exact.right(problem, "39 * 2 = 79\n\nWait, 39 * 2 = 78", "79 - 18 = 61")


# --- evals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("audit", [None, "rewrite"])
def test_a_run_says_what_its_audits_found(tmp_path, audit):
    folder, summary = evaluate(plan(audit=audit), pair(), tmp_path / "run")
    verdicts, answers = of(folder, VerdictEvent), of(folder, AuditEvent)
    found = summary["audits"]
    assert {event.place for event in answers} == {event.place for event in verdicts if event.audit}
    assert {event.by for event in answers} == {audit or "exact"}
    assert 0 < len(answers) < sum(not event.take_over for event in verdicts)
    wrong = sum(event.wrong for event in answers)
    assert (found["wrong"]["decisions"], found["wrong"]["realised"]) == (len(answers), wrong / len(answers))
    assert (found["by"], found["rate"], found["epsilon"], found["failed"]) == (audit or "exact", 0.5, 0.05, 0)
    assert found["false_accepts"]["estimate"] == pytest.approx(wrong / (0.5 * len(verdicts)))
    assert found["false_accepts"]["most"] <= false_accepts(wrong, 0.5) / len(verdicts)
    tokens = sum(call.completion_tokens for event in answers for call in event.calls)
    assert found["tokens"]["target_decode"] == found["tokens"]["target_dropped"] == tokens
    assert summary["tokens"]["target_decode"] == tokens + sum(c.decode.get("target", 0) for c in folder.chains)
    assert (tokens > 0) == (audit == "rewrite")
    assert summary["take_over"]["nominal"] is None
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert folder.run["configuration"]["gate"]["audits"] == {"epsilon": 0.05, "rate": 0.5, "by": audit or "exact"}
    assert evaluate(plan(audit=audit), pair(), tmp_path / "run")[1]["audits"] == found  # there is nothing to do
    page = tmp_path / "report.html"
    report.write(page, {"run": folder})
    assert "Audits of accepted chunks" in page.read_text()


def test_a_run_without_audits_has_none(tmp_path):
    folder, summary = evaluate(
        plan(gate_kind="adaptive-turn", epsilon=None, audit_rate=None, questions=2), pair(), tmp_path / "run"
    )
    assert summary["audits"] is None
    assert summary["take_over"]["nominal"] == 0.25
    report.write(tmp_path / "report.html", {"run": folder})
    assert "Audits of accepted chunks" not in (tmp_path / "report.html").read_text()


def replayed(folder, made):
    """The level of a gate that goes on with a run."""
    resume(gate := made.gate(), folder, {})
    assert isinstance(gate, AuditedGate)
    return gate.audits.level(None)


def test_a_gate_that_goes_on_knows_decisions_and_audits_and_what_is_not_answered_is_wrong(tmp_path):
    made = plan(questions=4)
    with evaluate(made, pair(), tmp_path / "run")[0] as folder:
        known, n = replayed(folder, made), len(of(folder, VerdictEvent))
        step, wrong = 0.1 * 0.5, sum(event.wrong for event in of(folder, AuditEvent))
        # whatever the floor has added: it is never less than this
        assert known >= 0.25 + step * (wrong / 0.5 - n * 0.05) - 1e-9
    # The process was killed when all chains were on record and two right answers were not.
    file = tmp_path / "run" / "events.jsonl"
    lines = file.read_text().splitlines()
    right = [i for i, one in enumerate(lines) if '"event":"audit"' in one and '"wrong":false' in one][-2:]
    file.write_text("".join(f"{one}\n" for i, one in enumerate(lines) if i not in right))
    folder = RunFolder.read(tmp_path / "run")
    assert len(unanswered(folder.events)) == 2
    assert replayed(folder, made) == pytest.approx(known + 2 * 0.1)
    killed, before = summarise(folder)["audits"], json.loads((tmp_path / "run" / "summary.json").read_text())["audits"]
    assert killed["failed"] == 2
    assert killed["wrong"]["decisions"] == before["wrong"]["decisions"]
    assert killed["wrong"]["realised"] * killed["wrong"]["decisions"] == pytest.approx(wrong + 2)
    assert killed["false_accepts"]["most"] > before["false_accepts"]["most"]


def test_an_interrupted_run_goes_on_and_loses_no_audit(tmp_path):
    def progress(recorder, planned):
        if len(recorder.folder.finished) >= 3:
            raise KeyboardInterrupt

    made = plan(questions=12, audit="rewrite", audit_rate=1.0)
    slow = pair(delay=lambda call: 0.3 if call.kind == "generate" else 0.0)
    with pytest.raises(Interrupted):
        evaluate(made, slow, tmp_path / "run", progress)
    stopped = RunFolder.read(tmp_path / "run")
    assert 3 <= len(stopped.finished) < 24
    assert unanswered(stopped.events) == []  # those that were under way are on record as stopped
    assert all(event.wrong for event in of(stopped, AuditEvent) if event.error)
    folder, summary = evaluate(made, pair(), tmp_path / "run")
    assert summary["chains_completed"] == 24
    assert unanswered(folder.events) == []
    places = [event.place for event in of(folder, AuditEvent)]
    assert len(places) == len(set(places)) == sum(event.audit for event in of(folder, VerdictEvent))


def test_what_the_audits_of_a_lost_chain_took_is_counted(tmp_path):
    """The chain breaks off while its audits are under way."""
    from a1_sgl.errors import RuntimeFault

    def faults(call):
        late = call.kind == "score" and call.request.route.chain == "1" and "Step 2" in call.prompt
        return RuntimeFault("no memory") if late else None

    made = plan(questions=1, alpha=0.05, audit="rewrite", audit_rate=1.0)
    backend = pair(0.0, delay=lambda call: 0.1 if call.kind == "generate" else 0.0, faults=faults)
    folder, summary = evaluate(made, backend, tmp_path / "run")
    assert (summary["chains_completed"], summary["chains_lost"]) == (1, 1)
    lost = of(folder, LostEvent)
    assert {event.error for event in lost} == {"RuntimeFault: no memory"}
    decoded = [call for event in lost for call in event.calls if (call.role, call.kind) == ("target", "decode")]
    written = [call for call in backend.engines[1].calls if call.kind == "generate"]
    assert len(decoded) == sum(call.request.route.chain == "1" for call in written) > 0
    assert summary["tokens"]["target_decode"] == summary["audits"]["tokens"]["target_decode"] + sum(
        call.completion_tokens for call in decoded
    ) + sum(chain.decode.get("target", 0) for chain in folder.chains)
    assert {event.sample for event in of(folder, AuditEvent)} == {0}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"epsilon": None}, "gate audited needs epsilon"),
        ({"epsilon": 1.5}, "epsilon, false accepts per decision, must lie strictly between 0 and 1, not 1.5"),
        ({"audit_rate": 0.0}, r"the audit rate, .*, must lie in \(0, 1\], not 0.0"),
        ({"audit": "rewrit"}, "unknown audit 'rewrit'; known: rewrite, judge, exact"),
        ({"gate_kind": "marginal"}, "gate marginal asks for no audits"),
        ({"gate_kind": "marginal", "epsilon": None, "audit_rate": None, "audit": "judge"}, "asks for no audits"),
        ({"task": find_task("math500", "nowhere"), "audit": "exact"}, "knows steps of generated tasks alone"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes, what):
    with pytest.raises(ConfigError, match=what):
        plan(**changes)


def test_no_decision_is_no_estimate():
    assert audits([], None) is None
    found = audits([], {"epsilon": 0.1, "rate": 0.1, "by": "exact"})
    assert found["false_accepts"]["estimate"] is found["false_accepts"]["most"] is None
