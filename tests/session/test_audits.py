"""Audits run beside the chains: none waits for them, all are answered once, and what they take is counted."""

import threading

import pytest
import sglang as sgl

from a1_sgl.conformal import AuditedGate, Gate, Place, ScoreBank
from a1_sgl.engine import submit
from a1_sgl.errors import ChainAborted, ConfigError, RecordFault, RuntimeFault
from a1_sgl.programs import a1, a1_lookahead, self_reject, spec_reason
from a1_sgl.programs import program as declared
from a1_sgl.session import AUDITS, Backend, Group, Query, Roles, Scored, audit, find_audit
from a1_sgl.session.audits import comes_to
from a1_sgl.testing import FakeEngine
from a1_sgl.types import (
    AnswerEvent,
    AuditEvent,
    ChainEvent,
    DropEvent,
    LostEvent,
    VerdictEvent,
    calls_of,
    unanswered,
)

DRAFT, TARGET = "Step 1: 1 + 1 = 3 pins.\n\n", "Step 1: so there are 2.\n\n"


class Accepts(AuditedGate):
    """A gate that accepts everything, and has all of it audited, or what `drawn` says of it."""

    def __init__(self, drawn=lambda **place: True, take_over=False):
        super().__init__(0.25, 0.03, 1.0, ScoreBank(), online=False)
        self._take, self._wanted, self.heard = take_over, drawn, []

    def __call__(self, score, **place):
        decision = super().__call__(score, **place)
        taken = self._take(**place) if callable(self._take) else self._take
        audit = not taken and self._wanted(**place)
        self._due |= {Place(**place)} if audit else set()
        return decision._replace(p_value=0.0 if taken else 1.0, alpha=0.5, audit=audit)

    def audited(self, wrong, **place):
        self.heard.append((wrong, place["sample"], place["turn"], place["attempt"]))
        super().audited(wrong, **place)


def fakes(draft=DRAFT, target=TARGET, in_flight=64, **rest):
    """The backend of a pair without models."""
    one = {"draft": FakeEngine(draft, name="draft"), "target": FakeEngine(target, name="target", **rest)}
    return Backend(Roles.pair(one["draft"], one["target"]), in_flight=in_flight)


def run(program, backend, gate, **rest):
    events = []
    listener = rest.pop("listener", events.append)
    arguments = {"samples": 1, "turns": 2, "draft_tokens": 40, "stop": ["\n\n"], **rest}
    state = program.run(question="q", backend=backend, gate=gate, listener=listener, **arguments)
    return state.ret_value, events


def of(events, kind, **where):
    return [e for e in events if isinstance(e, kind) and all(getattr(e, k) == v for k, v in where.items())]


def generated(backend, number=1):
    return [call for call in backend.engines[number].calls if call.kind == "generate"]


# --- what an audit is -----------------------------------------------------------------------------------------


def test_the_target_writes_the_step_from_the_same_prefix_and_nothing_else():
    backend, gate = fakes(), Accepts()
    result, events = run(a1, backend, gate, draft_tokens=40, temperature=0.7, top_p=0.9)
    assert result.chains[0].text == 2 * DRAFT
    first, second = generated(backend)
    assert [first.prompt, second.prompt] == ["user: q\nassistant: ", f"user: q\nassistant: {DRAFT}"]
    for call in (first, second):
        assert call.sampling["max_new_tokens"] == 40
        assert call.sampling["temperature"] == 0.0
        assert (call.sampling["top_p"], call.sampling["stop"]) == (0.9, ["\n\n"])
        assert call.request.priority == -1
        assert call.request.route == generated(backend, 0)[0].request.route
    assert all(call.request.priority is None for engine in backend.engines for call in engine.calls[:1])
    assert [(e.turn, e.wrong, e.by, e.error) for e in of(events, AuditEvent)] == [
        (0, True, "rewrite", None), (1, True, "rewrite", None),
    ]  # fmt: skip
    assert gate.heard == [(True, 0, 0, 0), (True, 0, 1, 0)]
    assert gate.audits.level(None) == pytest.approx(0.25 + 0.2, abs=0.01)


def test_what_comes_to_the_same_is_right():
    backend = fakes(target="In other words: 1 + 1 makes\n3.0 pins\n\n")
    _, events = run(a1, backend, Accepts())
    assert [e.wrong for e in of(events, AuditEvent)] == [False, False]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("so Mia has 285 marbles.\n\n", "Step 1: 238 + 47: 8 + 7 = 15, so 285.", True),
        ("so Mia has 285 marbles.", "so Mia has 275 marbles.", False),
        ("The answer is \\boxed{1,000}.", "that is 1000.0", True),
        ("\\boxed{\\frac{1}{2}} of 7", "\\boxed{ \\frac{1}{2} } of 8", True),
        ("\\boxed{x+1}", "\\boxed{x-1}", False),
        ("x = -5", "5", False),
        ("10-5 is 5", "it is 5", True),
        ("a1 is x12", "a1 is x12.", True),
        ("By symmetry, it holds.", "Therefore\nby  symmetry, it holds", True),
        ("By symmetry", "By induction", False),
        ("", "\n", True),
        ("", "so 3", False),
        ("costs 2,5", "costs 5", True),
        ("0.50", "0.5", True),
    ],
)
def test_what_a_step_comes_to(one, other, same):
    assert (comes_to(one) == comes_to(other)) == same


@pytest.mark.parametrize(("choices", "wrong"), [("9", False), ("2", True)])
def test_a_judge_rates_the_chunk_in_words(choices, wrong):
    backend = fakes(choices=lambda prompt, token: -0.1 if token == choices else -9.0)
    _, events = run(a1, backend, Accepts(), turns=1, audit="judge")
    (event,) = of(events, AuditEvent)
    assert (event.wrong, event.by, [call.kind for call in event.calls]) == (wrong, "judge", ["verify"])
    (asked,) = [call for call in backend.engines[1].calls if call.kind == "next_token"]
    assert "1 + 1 = 3 pins." in asked.prompt
    assert not generated(backend)


@pytest.fixture
def named():
    """`named(name)`: registers the function below it as an audit for the length of a test."""
    names = []

    def register(name):
        names.append(name)
        return audit(name, "made for a test")

    yield register
    for name in names:
        AUDITS.pop(name, None)


def test_an_audit_of_ones_own_may_do_what_it_likes_with_its_chain(named):
    seen = []

    @named("thorough")
    def thorough(chain, chunk):
        seen.append((chain.text, chunk.text, chain.turn, chain.chunks[-1] is chunk))
        chain.fork().draft(5)
        chain.append("Is that so? ")
        chain.target(7)
        chain.begin(chain.roles.writer, 9)
        return chain.score(chain.draft(9)).value > 100

    backend, gate = fakes(), Accepts()
    result, events = run(a1, backend, gate, audit="thorough")
    assert seen == [(DRAFT, DRAFT, 0, True), (2 * DRAFT, DRAFT, 1, True)]
    assert result.chains[0].text == 2 * DRAFT
    assert result.chains[0].take_overs == 0
    answered = of(events, AuditEvent)
    assert [e.wrong for e in answered] == [False, False]
    assert [[call.kind for call in e.calls] for e in answered] == [["decode"] * 3 + ["verify"]] * 2
    assert [[call.role for call in e.calls] for e in answered] == [["draft", "target", "draft", "target"]] * 2
    assert not of(events, DropEvent)


def test_names():
    assert find_audit("rewrite").name == "rewrite"
    with pytest.raises(ValueError, match="unknown audit 'rewrit'; known: rewrite, judge"):
        find_audit("rewrit")
    with pytest.raises(ValueError, match="the audit 'judge' is there already"):
        audit("judge", "again")(lambda chain, chunk: True)
    with pytest.raises(ValueError, match="unknown audit"):
        Query.of("q", 1, audit="none")

    @sgl.function
    def odd(s, query, audit="x"):
        pass

    with pytest.raises(ConfigError, match="audit means something else"):
        declared()(odd)


# --- beside the chains ----------------------------------------------------------------------------------------


def test_no_chain_waits_for_an_audit_and_the_result_waits_for_all():
    """The audits' generations take a second each, all at once; meanwhile chains go on to their ends."""
    backend = fakes(delay=lambda call: 1.0 if call.kind == "generate" else 0.0)
    result, events = run(a1, backend, Accepts(), samples=3, turns=4)
    kinds = [type(event) for event in events]
    assert max(i for i, kind in enumerate(kinds) if kind is ChainEvent) < kinds.index(AuditEvent)
    assert kinds[-1] is AnswerEvent
    assert len(of(events, AuditEvent)) == 12
    assert result.usage.decode["target"] == 12 * len(TARGET)


def test_their_tokens_are_the_targets_and_in_no_chain():
    backend = fakes()
    result, events = run(a1, backend, Accepts(lambda **place: place["turn"] == 1), samples=2, turns=3)
    assert len(of(events, AuditEvent)) == 2
    assert result.usage.decode == {"draft": 6 * len(DRAFT), "target": 2 * len(TARGET)}
    assert result.usage.dropped == {"target": 2 * len(TARGET)}
    assert sum(call.completion_tokens for call in calls_of(of(events, AuditEvent))) == 2 * len(TARGET)
    assert [(e.turn, e.audit) for e in of(events, VerdictEvent, sample=0)] == [(0, False), (1, True), (2, False)]
    assert [chain.take_overs for chain in result.chains] == [0, 0]


def test_what_is_handed_over_is_not_audited():
    gate = Accepts(take_over=lambda **place: place["turn"] == 0)
    result, events = run(a1, fakes(), gate, take_over="replace")
    assert [(e.take_over, e.audit) for e in of(events, VerdictEvent)] == [(True, False), (False, True)]
    assert result.chains[0].text == TARGET + DRAFT
    (event,) = of(events, AuditEvent)
    assert (event.turn, event.wrong) == (1, True)


def test_an_audit_changes_nothing_of_its_chain():
    """Nor of the seeds with which it is drawn."""

    def drawn(gate):
        backend = fakes()
        result, _ = run(a1, backend, gate, samples=2, turns=3, seed=5)
        return [chain.text for chain in result.chains], sorted(
            call.sampling["sampling_seed"] for call in generated(backend, 0)
        )

    assert drawn(Accepts()) == drawn(Accepts(lambda **place: False))


@pytest.mark.parametrize("program", [a1, a1_lookahead, spec_reason])
def test_every_program_with_a_gate_is_audited(program):
    backend = fakes()
    result, events = run(program, backend, gate := Accepts(), samples=2, turns=3)
    assert sorted(gate.heard) == [(True, sample, turn, 0) for sample in (0, 1) for turn in (0, 1, 2)]
    assert unanswered(events) == []
    assert [chain.text for chain in result.chains] == [3 * DRAFT] * 2
    prompts = sorted(call.prompt for call in generated(backend))
    assert prompts == sorted(2 * [f"user: q\nassistant: {DRAFT * turn}" for turn in range(3)])


def test_of_draws_the_accepted_one_is_audited_under_its_own_name():
    gate = Accepts(take_over=lambda **place: place["attempt"] < 2)
    result, events = run(self_reject, fakes(), gate, turns=2, retries=3)
    assert gate.heard == [(True, 0, 0, 2), (True, 0, 1, 2)]
    assert [e.attempt for e in of(events, AuditEvent)] == [2, 2]
    assert len(of(events, DropEvent, reason="redrawn")) == 4
    assert result.usage.dropped["draft"] == 4 * len(DRAFT)


def program(steps):
    """`steps(group)` as a program."""

    @sgl.function
    def made(s, query):
        with Group(s, query) as group:
            return steps(group)

    return made


def asked(chain, gate):
    """A chunk of the draft that is accepted, and audited."""
    return chain.ask(chain.draft(40), Scored(1.0, 3), gate)


def told(steps, backend, samples=1, **query):
    events = []
    query = Query.of("q", samples, listener=events.append, **query)
    state = program(steps).run(query=query, backend=backend, use_thread=False, stop=["\n\n"])
    return state.ret_value, events


def test_a_branch_that_is_given_up_has_its_audit_all_the_same():
    """A decision was made, and counts."""
    gate = Accepts()

    def body(chain):
        fork = chain.fork()
        asked(fork, gate)
        fork.discard("pruned")
        chain.draft(40)

    result, _ = told(lambda group: group.run(body), fakes(delay=lambda call: 0.05 * (call.kind == "generate")))
    assert gate.heard == [(True, 0, 0, 0)]
    assert result.usage.dropped == {"draft": len(DRAFT), "target": len(TARGET)}
    assert result.chains[0].text == DRAFT


def test_a_chain_that_is_stopped_since_its_question_is_decided_has_its_audits():
    slow = {"delay": lambda call: 0.2 * (call.kind == "generate")}
    backend, gate = fakes(**slow), Accepts()
    backend.roles.writer.engine._delay = lambda call: 600.0 * (call.prompt.count(DRAFT) >= 1)

    def body(chain):
        asked(chain, gate)
        if chain.sample:
            chain.draft(40)  # until it is stopped

    result, events = told(lambda group: group.run(body, until=lambda done: True), backend, 3)
    assert sorted(chain.ending for chain in result.chains) == ["stopped", "stopped", "turns"]
    assert [(e.wrong, e.error) for e in of(events, AuditEvent)] == [(True, None)] * 3
    assert isinstance(events[-1], AnswerEvent)


def test_steps_that_are_taken_together_are_audited_too():
    gate = Accepts()

    def steps(group):
        group.each(lambda chain: asked(chain, gate))
        group.each(lambda chain: chain.end_turn())
        return group.finish()

    result, events = told(steps, fakes(), 3)
    assert len(gate.heard) == 3
    assert result.usage.decode["target"] == 3 * len(TARGET)
    assert isinstance(events[-1], AnswerEvent)


def test_a_group_that_gives_no_result_waits_for_its_audits():
    backend, gate = fakes(delay=lambda call: 0.1 * (call.kind == "generate")), Accepts()
    _, events = told(lambda group: group.each(lambda chain: asked(chain, gate).audit), backend, 2)
    assert len(gate.heard) == len(of(events, AuditEvent)) == 2
    assert not of(events, AnswerEvent)


# --- what goes wrong ------------------------------------------------------------------------------------------


def test_an_audit_that_fails_counts_as_wrong_and_harms_nobody():
    backend = fakes(faults=lambda call: RuntimeFault("out of memory") if call.kind == "generate" else None)
    result, events = run(a1, backend, gate := Accepts(), samples=2)
    assert not result.lost
    assert {(e.wrong, e.error, e.calls) for e in of(events, AuditEvent)} == {
        (True, "RuntimeFault: out of memory", ())
    }  # fmt: skip
    assert [wrong for wrong, *_ in gate.heard] == [True] * 4


def test_a_stopped_audit_counts_as_wrong_and_what_it_took_is_counted():
    """The backend is aborted while audits are under way and all chains are over."""
    backend = fakes(target="so 2 " * 50, delay=lambda call: 600.0 * (call.kind == "generate"))
    events, gate, over = [], Accepts(), threading.Event()

    def listener(event):
        events.append(event)
        if len(of(events, ChainEvent)) == 2:
            over.set()

    arguments = {"samples": 2, "turns": 2, "draft_tokens": 200, "stop": ["\n\n"], "question": "q", "backend": backend}

    async def running():
        return await a1.arun(gate=gate, listener=listener, **arguments)

    task = submit(running())
    assert over.wait(60)
    while backend.engines[1].running < 4:  # all audits are with the runtime
        pass
    backend.abort()
    result = task.result(60).ret_value  # the chains were over
    answers = of(events, AuditEvent)
    assert len(answers) == len(gate.heard) == 4
    assert all(e.wrong and e.error.startswith("ChainAborted") for e in answers)
    assert all(len(e.calls) == 1 and e.calls[0].role == "target" for e in answers)
    assert result.usage.dropped.get("target", 0) == sum(e.calls[0].completion_tokens for e in answers)
    assert backend.engines[1].running == 0


def test_a_program_that_is_cancelled_stops_its_audits_and_waits_for_their_end():
    backend = fakes(delay=lambda call: 600.0 * (call.kind == "generate"))
    events, gate = [], Accepts()
    stream = a1.stream(
        question="q", backend=backend, gate=gate, samples=2, turns=2, draft_tokens=40, stop=["\n\n"]
    )  # fmt: skip
    for event in stream:
        events.append(event)
        if len(of(events, ChainEvent)) == 2:
            break
    stream.close()
    assert backend.engines[1].running == 0
    assert [wrong for wrong, *_ in gate.heard] == [True] * 4


def test_the_audits_of_a_chain_that_breaks_off_are_answered():
    gate = Accepts()

    def body(chain):
        asked(chain, gate)
        if chain.sample == 1:
            raise RuntimeFault("no more")

    result, events = told(lambda group: group.run(body), fakes(delay=lambda c: 0.05 * (c.kind == "generate")), 2)
    assert [lost.sample for lost in result.lost] == [1]
    order = [type(e) for e in events if getattr(e, "sample", None) == 1 and isinstance(e, AuditEvent | LostEvent)]
    assert order == [LostEvent, AuditEvent]
    assert result.usage.dropped == {"draft": len(DRAFT), "target": 2 * len(TARGET)}


@pytest.mark.parametrize("fault", [RecordFault("disk full"), ZeroDivisionError("listener")])
def test_a_listener_that_fails_at_an_audit_is_heard_and_the_gate_still_told(fault):
    def listener(event):
        if isinstance(event, AuditEvent):
            raise fault

    gate = Accepts()
    with pytest.raises(type(fault), match=str(fault)):
        run(a1, fakes(), gate, listener=listener)
    assert len(gate.heard) == 2


def test_what_ends_a_program_is_not_hidden_by_its_audits():
    def listener(event):
        if isinstance(event, AuditEvent):
            raise ZeroDivisionError("listener")

    def steps(group):
        group.each(lambda chain: asked(chain, Accepts()))
        raise KeyError("the program's own")

    with pytest.raises(KeyError, match="own"):
        program(steps).run(query=Query.of("q", 1, listener=listener), backend=fakes(), use_thread=False, stop=["\n\n"])


def test_a_program_that_was_stopped_before_has_no_audits():
    backend, gate = fakes(), Accepts()
    backend.abort()
    with pytest.raises(ChainAborted):
        run(a1, backend, gate)
    assert gate.heard == []


def test_unanswered_verdicts_are_those_without_an_audit_of_their_own():
    _, events = run(a1, fakes(), Accepts(), samples=2)
    answers, rest = of(events, AuditEvent), [e for e in events if not isinstance(e, AuditEvent)]
    assert unanswered(events) == []
    assert {e.place for e in unanswered([*rest, answers[0]])} == {e.place for e in answers[1:]}
    assert len(unanswered([*rest])) == 4
    assert unanswered(run(a1, fakes(), Gate(0.5))[1]) == []
