"""Chains under a gate of two stages: the draft's evidence is carried, and the target is asked only where it must be."""

import pytest
import sglang as sgl

from a1_sgl.conformal import SCORES, UNSEEN, AuditedGate, Gate, MondrianBank, Offsets, Score, TwoStage, make, marginal
from a1_sgl.conformal.scores import LIKELIEST
from a1_sgl.errors import ConfigError
from a1_sgl.evals.accounting import spared
from a1_sgl.programs import PROGRAMS, a1, a1_lookahead, direct
from a1_sgl.session import Backend, Group, Query, Roles, run_chains
from a1_sgl.testing import FakeEngine
from a1_sgl.types import AuditEvent, ChainEvent, ChunkEvent, DropEvent, VerdictEvent

LINE = "1 + 1 = 2\n\n"
OWN = SCORES["own_loss"]
STEPS = {"stop": ["\n\n"], "turns": 4, "draft_tokens": 40, "target_tokens": 40}


def sure(call, text):
    """Log-probabilities of a draft that is sure of every second chain and of no other."""
    return -0.1 if call.request.route.chain in ("0", "2", "4", "6") else -5.0


def fakes(texts=LINE, *, own=sure, scores=-0.5):
    draft, target = FakeEngine(texts, name="one", own=own), FakeEngine("7\n\n", name="two", scores=scores)
    return Backend(Roles.pair(draft, target)), draft, target


def opened(first=OWN, alpha=0.3, explore=1000, **options):
    """A gate whose first stage has learnt that a loss below 1 is good, and hardly explores."""
    gate = TwoStage(Gate(alpha, MondrianBank("turn")), first, explore=explore, eta=0.1, **options)
    for i in range(200):
        strange = i % 2
        gate.calibrate(9.0 + i if strange and i % 4 else i / 1000, question=f"c{i}", first=3.0 * strange + i / 1000)
    return gate


def run(program, backend, samples=4, **arguments):
    events = []
    state = program.run(question="q", backend=backend, samples=samples, listener=events.append, **arguments)
    assert not state.ret_value.lost, state.ret_value.lost[0]
    return state.ret_value, events


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def chunks(steps, backend, logprobs=0, **sampling):
    """What `steps(chain)` returns."""
    kept = []

    @sgl.function
    def program(s):
        run_chains(s, Query.of("q", 1, logprobs=logprobs), lambda chain: kept.append(steps(chain)))

    program.run(backend=backend, use_thread=False, **{"stop": ["\n\n"]} | sampling)
    return kept[0]


# --- the evidence ---------------------------------------------------------------------------------------------


def test_a_chunk_has_the_log_probabilities_it_was_written_with():
    backend, *_ = fakes("ab\n\n", own=lambda call, text: [-float(i) for i, _ in enumerate(text)])
    drafted, taken = chunks(lambda chain: (chain.draft(9), chain.target(9)), backend, logprobs=2)
    assert drafted.logprobs == (0.0, -1.0, -2.0, -3.0)
    assert drafted.first == (-0.3, -2.0)
    assert (taken.logprobs, taken.first) == (None, None)  # only the writer is asked
    plain, _ = chunks(lambda chain: (chain.draft(9), chain.target(9)), fakes("ab\n\n")[0], logprobs=None)
    assert (plain.logprobs, plain.first) == (None, None)


def test_white_space_that_is_continued_keeps_its_own():
    """A chunk of several generations has the log-probabilities of all, and the first token is the first one's."""
    draft = FakeEngine(
        ["\n\n", "c"], own=lambda call, text: -1.0 - call.number, first=lambda call: (-float(call.number),)
    )
    chunk = chunks(lambda chain: chain.draft(20), Backend(Roles.alone(draft)), logprobs=1)
    assert chunk.text == "\n\nc"
    assert chunk.ended
    first = draft.calls[1].number
    assert chunk.logprobs == (-1.0 - first, -1.0 - first, -2.0 - first, -2.0 - first)  # the end token's is the last
    assert chunk.first == (-float(first),)


def test_what_is_trimmed_off_takes_its_own_with_it():
    backend, *_ = fakes("abc\n\n", own=lambda call, text: [-float(i) for i, _ in enumerate(text)])

    def steps(chain):
        chain.trim(chain.draft(9), "c\n\n")
        return chain.chunks[-1]

    kept = chunks(steps, backend)
    assert (kept.text, kept.logprobs) == ("ab", (0.0, -1.0))


def test_an_end_token_keeps_its_own_when_text_is_trimmed():
    backend, *_ = fakes("abc", own=-2.0)

    def steps(chain):
        chain.trim(chain.draft(9), "c")
        return chain.chunks[-1]

    kept = chunks(steps, backend)
    assert (kept.text, kept.ended, len(kept.logprobs)) == ("ab", True, 3)


def test_a_fork_and_what_it_began_have_theirs():
    backend, *_ = fakes()

    def steps(chain):
        fork = chain.fork()
        fork.begin(fork.roles.writer, 40)
        fork.draft(40)
        chain.become(fork)
        return chain.chunks[-1]

    assert chunks(steps, backend).logprobs == (-0.1,) * len(LINE)


@pytest.mark.parametrize("name", ["own_loss", "own_worst", "first_entropy"])
def test_a_score_that_was_not_asked_for_is_refused_with_the_way_out(name):
    backend, *_ = fakes()
    with pytest.raises(ConfigError, match=f"score {name} needs the log-probabilities.*Query"):
        chunks(lambda chain: chain.score(chain.draft(40), name), backend, logprobs=None)


def test_programs_ask_for_what_their_gate_and_score_need_and_for_nothing_else():
    asked = {
        "plain": ({"gate": marginal(0.3)}, None),
        "score": ({"gate": marginal(0.3), "score": "own_worst"}, 0),
        "first stage": ({"gate": opened()}, 0),
        "entropy": ({"gate": opened(SCORES["first_entropy"])}, LIKELIEST),
        "both": ({"gate": opened(SCORES["first_entropy"]), "score": "own_loss"}, LIKELIEST),
    }
    for name, (arguments, wanted) in asked.items():
        backend, draft, target = fakes()
        run(a1, backend, 1, **STEPS, **arguments)
        written = [call.request.logprobs for call in draft.calls if call.kind == "generate"]
        assert set(written) == {wanted}, name
        assert {call.request.logprobs for call in target.calls if call.kind == "generate"} <= {None}, name
    backend, draft, _ = fakes()
    run(direct, backend.alone("draft"), 1, max_tokens=9)
    assert [call.request.logprobs for call in draft.calls if call.kind == "generate"] == [None]


# --- one stage, of the draft alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["own_loss", "own_worst", "first_entropy"])
def test_a_gate_that_goes_by_the_draft_never_asks_the_target(name):
    backend, _, target = fakes()
    _, events = run(a1, backend, gate=make("adaptive-turn", 0.4), score=name, **STEPS)
    verdicts = of(events, VerdictEvent)
    assert {verdict.call for verdict in verdicts} == {None}
    assert {call.kind for call in target.calls} <= {"prefill", "generate"}
    assert {verdict.take_over for verdict in verdicts} == {True, False}


def test_a_score_of_ones_own_may_go_by_both(monkeypatch):
    backend, *_ = fakes()
    surprise = Score(
        "surprise", "", lambda evidence: sum(evidence.target) - sum(evidence.own), needs=("target", "own")
    )  # fmt: skip
    monkeypatch.setitem(SCORES, "surprise", surprise)
    scored = chunks(lambda chain: chain.score(chain.draft(40), "surprise"), backend)
    assert scored.value == pytest.approx((0.5 - 0.1) * len(LINE))
    assert [call.role for call in scored.calls] == ["target"]


# --- two stages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", [a1, a1_lookahead])
def test_the_target_scores_what_the_draft_is_not_sure_of(program):
    backend, _, target = fakes()
    _, events = run(program, backend, gate=opened(), **STEPS)
    verdicts = of(events, VerdictEvent)
    assert len(verdicts) == 16
    for verdict in verdicts:
        assert verdict.unseen == (verdict.sample % 2 == 0)
        if verdict.unseen:
            assert (verdict.score, verdict.call, verdict.take_over, verdict.p_value) == (UNSEEN, None, False, 1.0)
            assert verdict.tokens == len(LINE)
            assert verdict.screening.score == pytest.approx(0.1)
        else:
            assert (verdict.screening.outcome, verdict.score) == ("doubted", 0.5)
            assert verdict.call.kind == "verify"
    assert sum(call.kind == "score" for call in target.calls) == 8
    assert spared(events) == 8 * len(LINE)


def test_what_stands_before_a_verification_is_read_with_it():
    """The target is spared the call, and of the tokens those after its last one alone."""
    backend, *_ = fakes(own=lambda call, text: -5.0 if call.prompt.count(LINE) == 1 else -0.1)
    _, events = run(a1, backend, 1, gate=opened(), **STEPS)
    verdicts = of(events, VerdictEvent)
    assert [verdict.unseen for verdict in verdicts] == [True, False, True, True]
    calls = [verdict.call for verdict in verdicts if verdict.call]
    assert calls[0].prompt_tokens - calls[0].cached_tokens >= 2 * len(LINE)
    assert spared(events) == 2 * len(LINE)


def test_an_accepted_chunk_counts_for_the_control():
    backend, *_ = fakes(own=-0.1)
    gate = opened()
    gate.gate.control = Offsets(0.3, {"turn": 0.02})
    _, events = run(a1, backend, 8, gate=gate, **STEPS)
    accepted = sum(event.unseen for event in of(events, VerdictEvent))
    assert accepted == gate.accepted > 0
    noted = sum(n for family in gate.gate.control.state() for _, n, *_ in family)
    assert noted == len(of(events, VerdictEvent))


def test_a_verdict_is_read_back_as_it_was_written():
    backend, *_ = fakes()
    _, events = run(a1, backend, gate=opened(), **STEPS)
    for event in of(events, VerdictEvent):
        assert VerdictEvent.model_validate_json(event.model_dump_json()) == event


def test_a_chain_that_fails_while_it_is_explored_counts_as_found():
    """Else what is lost would be of those that are explored and never of those that are accepted."""
    gate = opened(explore=4)
    backend, _, target = fakes(own=-0.1)
    target._faults = lambda call: RuntimeError("no") if call.kind == "score" else None
    state = a1.run(question="q", backend=backend, samples=16, gate=gate, **STEPS | {"turns": 1})
    assert 0 < gate.found <= len(state.ret_value.lost) < 16  # beside those that were verified while it was closed
    assert not gate.state()["waiting"]


def test_what_is_accepted_unseen_is_audited_too():
    gate = TwoStage(AuditedGate(0.3, 0.05, 1.0), OWN, explore=1000, eta=0.1)
    for i in range(200):
        strange = i % 2
        gate.calibrate(9.0 + i if strange and i % 4 else i / 1000, question=f"c{i}", first=3.0 * strange + i / 1000)
    backend, _, target = fakes(own=-0.1)
    _, events = run(a1, backend, gate=gate, samples=4, **STEPS | {"turns": 2})
    unseen = [verdict for verdict in of(events, VerdictEvent) if verdict.unseen]
    assert unseen
    assert all(verdict.audit and verdict.call is None for verdict in unseen)
    audits = {audit.place: audit for audit in of(events, AuditEvent)}
    assert all(audits[verdict.place].wrong for verdict in unseen)  # the target writes another number
    assert not gate.gate.state()["due"]
    level = gate.gate.audits.level(unseen[0].place)
    assert level == pytest.approx(0.3 + 0.1 * len(audits), abs=0.05)
    assert [call.kind for call in target.calls].count("score") < len(audits)


GATED = ("a1", "a1_lookahead", "self_reject", "self_reject_fork", "route", "spec_reason")


@pytest.mark.parametrize("name", GATED)
def test_every_program_with_a_gate_takes_one_of_two_stages(name):
    program = PROGRAMS[name]
    backend, *_ = fakes()
    settings = {name: value for name, value in STEPS.items() if name == "stop" or name in program.own}
    cue = {"cue": "7"} if name == "spec_reason" else {}
    gate = opened()
    _, events = run(program, backend, gate=gate, **settings, **cue)
    verdicts = of(events, VerdictEvent)
    assert any(verdict.unseen for verdict in verdicts)
    assert any(verdict.call for verdict in verdicts)
    assert all(verdict.screening or (name, verdict.turn) == ("route", 0) for verdict in verdicts)
    assert len(of(events, ChainEvent)) == 4
    decoded = sum(event.tokens for event in of(events, ChunkEvent))
    assert decoded + sum(sum(c.completion_tokens for c in e.calls) for e in of(events, DropEvent)) > 0
    assert not gate.state()["waiting"]


def test_a_program_that_scores_first_has_no_first_stage():
    backend, *_ = fakes(own=-0.1)
    gate = opened()

    def steps(chain):
        chunk = chain.draft(40)
        return chain.ask(chunk, chain.score(chunk), gate)

    assert chunks(steps, backend).score == 0.5
    assert gate.candidates == 0


def test_a_rehearsed_chunk_joins_the_bank_and_teaches_the_first_stage_nothing():
    backend, *_ = fakes()
    gate = opened()
    before = gate.state()["bins"]

    @sgl.function
    def program(s):
        with Group(s, Query.of("q", 1, logprobs=0)) as group:
            group.rehearse(lambda chain: chain.calibrate(chain.draft(40), gate), 2)
            return group.run(lambda chain: chain.draft(40))

    program.run(backend=backend, use_thread=False, stop=["\n\n"])
    assert len(gate.gate.bank) == 202
    assert gate.state()["bins"] == before
