"""A question's chains together: the prompt they share, steps and ends, what stops them, what is left of them."""

import asyncio
import threading

import pytest
import sglang as sgl

from a1_sgl.conformal import marginal
from a1_sgl.engine import stack, submit, wait
from a1_sgl.errors import A1Error, ChainAborted, ConfigError, RuntimeFault
from a1_sgl.programs import a1, direct
from a1_sgl.session import Backend, Group, Query, Roles, aside, run_chains, stoppable
from a1_sgl.testing import FakeEngine
from a1_sgl.types import AnswerEvent, ChainEvent, DropEvent, LostEvent, PromptEvent, RatingEvent

LINE = "1 + 1 = 2\n\n"


def fakes(texts=LINE, *, in_flight=64, deadline=None, **rest):
    """The backend of a pair without models."""
    draft, target = FakeEngine(texts, name="one", **rest), FakeEngine(texts, name="two", **rest)
    return Backend(Roles.pair(draft, target), in_flight=in_flight, deadline=deadline)


def program(steps):
    """`steps(group)` as a program; what it returns is the program's value."""

    @sgl.function
    def made(s, query):
        with Group(s, query) as group:
            return steps(group)

    return made


def run(made, backend, samples=3, **query):
    """The program's value and its events."""
    events = []
    query = Query.of("q", samples, listener=events.append, **query)
    state = made.run(query=query, backend=backend, use_thread=False, stop=["\n\n"])
    return state.ret_value, events


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def made_by(backend, kind="generate"):
    return [call for engine in backend.engines for call in engine.calls if call.kind == kind]


# --- the prompt -----------------------------------------------------------------------------------------------


def test_the_prompt_is_sent_once_to_each_role():
    backend = fakes()
    _, events = run(program(lambda group: group.run(lambda chain: chain.draft(20))), backend)
    assert [(e.call.runtime, e.call.role, e.call.kind) for e in of(events, PromptEvent)] == [
        ("one", "draft", "prefill"), ("two", "target", "prefill"),
    ]  # fmt: skip
    assert [call.prompt for call in made_by(backend, "prefill")] == ["user: q\nassistant: "] * 2
    assert all(call.prompt == "user: q\nassistant: " for call in made_by(backend))


def test_requests_say_whose_they_are():
    """So that of several runtimes the one with the chain's prefix serves it."""
    backend = fakes()
    run(program(lambda group: group.run(lambda chain: (chain.draft(20), chain.fork().draft(20)))), backend, (4, 7))
    routes = [call.request.route for call in made_by(backend)]
    assert len({route.question for route in routes}) == 1
    assert sorted(route.chain for route in routes) == ["4", "4", "7", "7"]


def test_a_prompt_that_fails_on_one_runtime_is_the_programs_failure():
    target = FakeEngine(name="two", faults=lambda call: RuntimeFault("no memory"))
    events = []
    with pytest.raises(RuntimeFault, match="no memory"):
        direct.run(question="q", backend=Backend(Roles.pair(FakeEngine(), target)), listener=events.append)
    assert [event.call.role for event in of(events, PromptEvent)] == ["draft"]  # what it cost is told


# --- steps ----------------------------------------------------------------------------------------------------


def test_a_step_of_all_chains_gives_their_results_in_order():
    def steps(group):
        found = group.each(lambda chain: (chain.sample, chain.draft(20).text))
        found += group.each(lambda chain: (chain.sample, chain.draft(20).text), group.chains[1:])
        group.each(lambda chain: chain.end_turn())
        return found, group.finish()

    (found, result), events = run(program(steps), fakes(), (5, 2, 9))
    assert found == [(5, LINE), (2, LINE), (9, LINE), (2, LINE), (9, LINE)]
    assert [(chain.sample, chain.text) for chain in result.chains] == [(5, LINE), (2, 2 * LINE), (9, 2 * LINE)]
    assert isinstance(events[-1], AnswerEvent)


def test_a_step_that_fails_is_raised_when_all_have_ended():
    ended = []

    def step(chain):
        if chain.sample == 1:
            raise ZeroDivisionError("one step")
        chain.draft(20)
        ended.append(chain.sample)

    with pytest.raises(ZeroDivisionError, match="one step"):
        run(program(lambda group: group.each(step)), fakes(delay=0.01))
    assert sorted(ended) == [0, 2]


def test_no_step_at_all_is_a_result():
    result, _ = run(program(lambda group: group.finish()), fakes())
    assert [(chain.text, chain.ending, chain.answer) for chain in result.chains] == [("", "turns", None)] * 3


# --- ends -----------------------------------------------------------------------------------------------------


def test_a_question_that_is_decided_stops_the_others():
    """Chains under way are stopped, those that wait for a place never begin, and none of them has an answer."""
    backend = fakes(
        ["so \\boxed{2}"], in_flight=2, delay=lambda call: 600.0 * (call.kind == "generate" and call.number > 1)
    )
    asked = []

    def until(finished):
        asked.append([chain.sample for chain in finished])
        return True

    result, events = run(
        program(lambda group: group.run(lambda chain: chain.draft(20), until=until)), backend, 5
    )  # fmt: skip
    assert asked == [[0]]
    assert [(chain.sample, chain.ending, chain.answer) for chain in result.chains] == [
        (0, "answered", "2"), *[(sample, "stopped", None) for sample in (1, 2, 3, 4)],
    ]  # fmt: skip
    assert (result.answer, result.lost) == ("2", ())
    assert len(made_by(backend)) == 2
    assert [drop.reason for drop in of(events, DropEvent)] == ["stopped"]
    assert sum(engine.running for engine in backend.engines) == 0


def test_if_every_chain_fails_the_first_error_is_raised():
    def body(chain):
        raise RuntimeFault(f"chain {chain.sample} fell over")

    events = []
    with pytest.raises(RuntimeFault, match="chain 0 fell over"):
        program(lambda group: group.run(body)).run(
            query=Query.of("q", 2, listener=events.append), backend=fakes(), use_thread=False
        )
    assert [lost.sample for lost in of(events, LostEvent)] == [0, 1]

    def other(chain):
        return {}["nothing"]

    with pytest.raises(A1Error, match=r"every chain failed: KeyError: 'nothing' \(.*test_group\.py:\d+\)"):
        run(program(lambda group: group.run(other)), fakes())


def test_what_a_chain_has_begun_and_not_taken_up_is_aborted_when_it_ends():
    backend = fakes(LINE * 9, delay=lambda call: 600.0 * (call.kind == "generate"))

    def body(chain):
        chain.append("so ")
        chain.begin(chain.roles.writer, 90)
        chain.rate()  # meanwhile it is under way
        chain.end_turn()

    result, events = run(program(lambda group: group.run(body)), backend, 2)
    assert [chain.text for chain in result.chains] == ["so "] * 2
    assert [(drop.author, drop.reason) for drop in of(events, DropEvent)] == [("draft", "stopped")] * 2
    assert sum(engine.running for engine in backend.engines) == 0


def test_a_vote_that_weighs_has_ratings():
    """By the target, where the program has none; and a chain without text has nothing to be rated."""

    def body(chain):
        if chain.sample:
            chain.draft(20)

    result, events = run(program(lambda group: group.run(body)), fakes(scores=-1.0), 2, vote="weighted")
    assert [chain.rating for chain in result.chains] == [0.0, pytest.approx(0.3679, abs=1e-4)]
    assert [(e.sample, e.by) for e in of(events, RatingEvent)] == [(1, "target")]
    result, events = run(program(lambda group: group.run(body)), fakes(scores=-1.0), 2, rate="own")
    assert [(e.by, e.call.runtime) for e in of(events, RatingEvent)] == [("own", "one")]
    _, events = run(program(lambda group: group.run(body)), fakes(), 2)
    assert not of(events, RatingEvent)


def test_a_chain_whose_rating_fails_is_lost():
    def faults(call):
        return RuntimeFault("no scores") if call.kind == "score" and call.prompt.endswith(2 * LINE) else None

    def body(chain):
        chain.draft(20)
        if chain.sample == 1:
            chain.draft(20)

    result, _ = run(program(lambda group: group.run(body)), fakes(faults=faults), vote="best")
    assert [chain.sample for chain in result.chains] == [0, 2]
    assert [lost.error for lost in result.lost] == ["RuntimeFault: no scores"]


def test_a_closed_group_has_nothing_left():
    kept = []

    def steps(group):
        def body(chain):
            chain.draft(20)
            kept.extend((chain, chain.fork()))

        result = group.run(body)
        kept.append(group)
        return result

    run(program(steps), fakes(), 1)
    chain, fork, group = kept
    assert not group._forks
    for one in (chain, fork):
        with pytest.raises(RuntimeError, match="was given up or is over"):
            one.draft(3)


# --- rehearsals -----------------------------------------------------------------------------------------------


def test_rehearsals_are_in_no_chain_and_what_they_cost_is_counted():
    gate = marginal(0.5, online=False)

    def rehearse(chain):
        chain.calibrate(chain.draft(20), gate)

    def steps(group):
        group.rehearse(rehearse, 4)
        return group.run(lambda chain: chain.draft(20))

    result, _ = run(program(steps), fakes(), 2)
    assert len(gate.bank) == 4
    assert [chain.text for chain in result.chains] == [LINE] * 2
    assert result.usage.decode["draft"] == 6 * len(LINE)


def test_rehearsals_that_are_stopped_stop_the_program():
    backend = fakes(delay=lambda call: 600.0 * (call.kind == "generate"))

    def rehearse(chain):
        asyncio.get_running_loop().call_soon(backend.abort)
        chain.draft(20)

    with pytest.raises(ChainAborted):
        run(program(lambda group: group.rehearse(rehearse, 3)), backend)
    assert sum(engine.running for engine in backend.engines) == 0


# --- stopping -------------------------------------------------------------------------------------------------


def endless(**rest):
    """A backend whose generations never end of themselves, and an event that is set when one is under way."""
    under_way = threading.Event()

    def delay(call):
        if call.kind != "generate":
            return 0.0
        under_way.set()
        return 600.0

    return fakes(delay=delay, **rest), under_way


@pytest.mark.parametrize("by", ["handle", "backend"])
def test_a_program_is_stopped_from_another_thread(by):
    backend, under_way = endless()

    with stoppable() as handle:

        def stop():
            assert under_way.wait(60)
            (handle.stop if by == "handle" else backend.abort)()

        thread = threading.Thread(target=stop)
        thread.start()
        with pytest.raises(ChainAborted):
            direct.run(question="q", samples=3, backend=backend)
        thread.join()
    assert sum(engine.running for engine in backend.engines) == 0


@pytest.mark.parametrize("joint", [False, True])
def test_a_chain_that_is_stopped_as_it_ends_is_not_taken_for_finished(joint):
    """Else a run that is interrupted just then would record it without an answer, and never run it again."""
    events = []

    def steps(group):
        def body(chain):
            chain.draft(20)
            handle.stop()

        if not joint:
            return group.run(body)
        group.each(body)
        return group.finish()

    with stoppable() as handle, pytest.raises(ChainAborted):
        program(steps).run(query=Query.of("q", 1, listener=events.append), backend=fakes(), use_thread=False)
    assert not of(events, ChainEvent)
    assert not of(events, LostEvent)


def test_chains_that_wait_for_a_place_are_stopped_too():
    backend, under_way = endless(in_flight=1)
    running = submit(stack(direct.run, question="q", samples=9, backend=backend))
    assert under_way.wait(60)
    running.cancel()
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever says that it was cancelled
        running.result(60)
    assert len(made_by(backend)) == 1
    assert sum(engine.running for engine in backend.engines) == 0


def test_stopping_within_a_block_leaves_what_is_around_it():
    backend = fakes()
    with stoppable() as outer:
        with stoppable() as inner:
            inner.stop()
            with pytest.raises(ChainAborted):
                direct.run(question="q", backend=backend)
        assert direct.run(question="q", backend=backend).ret_value.chains
        outer.stop()
        with stoppable(), pytest.raises(ChainAborted):
            direct.run(question="q", backend=backend)
    assert direct.run(question="q", backend=backend).ret_value.chains


def test_a_chains_time_begins_when_it_is_admitted():
    def body(chain):
        aside(threading.Event().wait, 0.8)
        chain.draft(20)

    backend = fakes(in_flight=1, deadline=3.0)  # together they take longer
    result, _ = run(program(lambda group: group.run(body)), backend, 4)
    assert len(result.chains) == 4


def test_if_every_chain_is_late_the_program_says_so():
    backend, _ = endless(deadline=0.1)
    with pytest.raises(RuntimeFault, match=r"not finished within 0\.1 s"):
        direct.run(question="q", samples=2, backend=backend)
    assert sum(engine.running for engine in backend.engines) == 0


# --- programs within programs ---------------------------------------------------------------------------------


def nested(inner_samples=2, turns=1):
    """A program each of whose chains runs another program on the same backend."""
    backends = []

    def body(chain):
        for _ in range(turns):
            inner = direct.run(question="inner", samples=inner_samples, backend=backends[0]).ret_value
            chain.append(f"{len(inner.chains)} ")

    return program(lambda group: (backends.append(group._backend), group.run(body))[1])


@pytest.mark.parametrize("in_flight", [1, 2, 64])
def test_a_program_within_a_chain_needs_no_place_beyond_its_chains(in_flight):
    """All places may be held by chains that wait for programs of their own."""
    backend = fakes(in_flight=in_flight)
    running = submit(stack(run, nested(turns=2), backend, 5))
    result, _ = running.result(60)
    assert [chain.text for chain in result.chains] == ["2 2 "] * 5
    # All places are there again.
    assert len(direct.run(question="q", samples=5, backend=backend).ret_value.chains) == 5
    assert backend.admission._places._value == in_flight


def test_a_program_within_a_chain_keeps_to_the_limit():
    writing, most = set(), 0
    backend = fakes(in_flight=3, delay=0.002)

    def counted(generate):  # prompts are computed on both runtimes at once, and take no place of a chain
        async def count(request, sampling):
            nonlocal most
            writing.add(id(request))
            most = max(most, len(writing))
            try:
                return await generate(request, sampling)
            finally:
                writing.discard(id(request))

        return count

    for engine in backend.engines:
        engine.generate = counted(engine.generate)
    run(nested(inner_samples=4), backend, 6)
    assert most == 3


def test_what_stops_a_chain_stops_the_program_within_it():
    backend, under_way = endless()
    running = submit(stack(run, nested(), backend, 2))
    assert under_way.wait(60)
    running.cancel()
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever says that it was cancelled
        running.result(60)
    assert sum(engine.running for engine in backend.engines) == 0


def test_a_late_chains_program_is_stopped_with_it():
    backend, _ = endless(deadline=0.2)
    with pytest.raises(RuntimeFault, match=r"not finished within 0\.2 s"):
        submit(stack(run, nested(), backend, 2)).result(60)
    assert sum(engine.running for engine in backend.engines) == 0


def test_with_ignore_eos_nothing_that_is_written_ends_a_chain():
    """Lengths can be fixed, so that speed is measured whatever the weights say."""
    texts = "So \\boxed{1}.\n\n"
    for endless, turns in ((False, 1), (True, 3)):
        result = a1.run(
            question="q", gate=marginal(0.5), samples=2, backend=fakes(texts), turns=3, draft_tokens=40, stop="\n\n",
            ignore_eos=endless,
        ).ret_value  # fmt: skip
        assert [(chain.turns, chain.answer) for chain in result.chains] == [(turns, "1")] * 2


# --- refusals -------------------------------------------------------------------------------------------------


def test_nobody_takes_over_where_there_is_one_runtime():
    alone = Backend(Roles.alone(FakeEngine(LINE)))
    with pytest.raises(ConfigError, match="needs a draft and a target"):
        run(program(lambda group: group.run(lambda chain: chain.target(20))), alone)


def test_run_chains_is_a_group_whose_chains_go_their_own_ways():
    @sgl.function
    def made(s, query):
        return run_chains(s, query, lambda chain: chain.draft(20), until=lambda finished: len(finished) == 2)

    result, events = run(made, fakes(in_flight=1), 4)
    assert [chain.ending for chain in result.chains] == ["turns", "turns", "stopped", "stopped"]
    assert len(of(events, ChainEvent)) == 4


def test_a_group_in_a_plain_thread_with_sglangs_worker():
    """What SGLang's own ``run`` does by default: the body of the program is on its worker's thread."""

    @sgl.function
    def made(s, query):
        with Group(s, query) as group:
            first = group.chains[0]
            first.begin(first.roles.writer, 20)
            first.draft(20)
            fork = first.fork()
            fork.draft(20)
            first.become(fork)
            group.each(lambda chain: chain.draft(20), group.chains[1:])
            return group.finish()

    state = made.run(query=Query.of("q", 2), backend=fakes(), stop=["\n\n"])
    assert [chain.text for chain in state.ret_value.chains] == [2 * LINE, LINE]
    assert wait(asyncio.sleep(0, "the loop still runs")) == "the loop still runs"
