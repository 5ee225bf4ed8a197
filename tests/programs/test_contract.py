"""What all programs have in common: events, accounting, seeds, streaming; and programs in a user's file."""

import asyncio
import itertools
import math
from dataclasses import replace
from typing import Annotated

import pytest
import sglang as sgl
from pydantic import Field, TypeAdapter

from a1_sgl.conformal import make, marginal
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault
from a1_sgl.evals.runner import Eval, evaluate
from a1_sgl.evals.tasks import find_task
from a1_sgl.programs import PROGRAMS, Program, a1, direct, find_program, program, stop_strings
from a1_sgl.session import Backend, Roles, run_chains, stoppable
from a1_sgl.testing import FakeEngine
from a1_sgl.types import AnswerEvent, ChainEvent, ChunkEvent, DropEvent, Event, Question, Usage, calls_of

EVENT = TypeAdapter(Event)
SAMPLING = {"temperature": 0.6, "stop": ["\n\n"]}
PAIRS = {"a1", "a1_sync", "a1_lookahead", "spec_reason", "speculative_thinking", "route"}
JOINT = {"self_consistency", "beam_search", "dvts", "tree_of_thought", "self_reject_fork", "a1_sync", "route"}
GATED = {"self_reject", "self_reject_fork", "a1", "a1_lookahead", "route"}
LONG = {"max_tokens": 400, "ignore_eos": True, "temperature": 0.6}


def test_declarations_say_what_programs_need():
    assert {name for name, one in PROGRAMS.items() if one.takes_over} == PAIRS
    assert {name for name, one in PROGRAMS.items() if one.joint} == JOINT
    assert {name for name, one in PROGRAMS.items() if one.gate == "required"} == GATED
    assert {name for name, one in PROGRAMS.items() if one.gate != "none"} == GATED | {"spec_reason"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_parameter_is_described(name):
    text = PROGRAMS[name].function.func.__doc__
    assert "Use it" in text
    for parameter in PROGRAMS[name].own:
        assert f"{parameter}:" in text or f"{parameter}," in text, parameter


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_token_is_accounted_for(name, questions, solve):
    """What the runtimes decoded is in a chunk or was aborted; what is in no chain was dropped."""
    result, events = solve(name, questions[2])
    for event in events:
        assert EVENT.validate_json(event.model_dump_json()) == event
    assert [event.sample for event in result.chains] == [0, 1, 2, 3]
    assert isinstance(events[-1], AnswerEvent)
    assert events[-1].answer == result.answer
    assert result.usage == Usage.of(events)
    calls = calls_of(events)
    decoded = sum(call.completion_tokens for call in calls)
    assert decoded == sum(result.usage.decode.values())
    chunks = [event for event in events if isinstance(event, ChunkEvent)]
    aborted = [event for event in events if isinstance(event, DropEvent) and event.calls]
    assert decoded == sum(event.tokens for event in chunks) + sum(event.tokens for event in aborted)
    assert all(len(c.text) for c in result.chains)


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - PAIRS))
def test_programs_of_one_model_run_on_one_runtime(name, single, questions, solve):
    result, events = solve(name, questions[3], backend=single, samples=2)
    assert {call.runtime for call in calls_of(events)} == {"target"}
    assert result.answer is not None


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_programs_of_two_models_say_so_on_one_runtime(name, single, questions, solve):
    with pytest.raises(ConfigError, match=f"program {name} needs a draft and a target"):
        solve(name, questions[3], backend=single, samples=2)


def test_chunking_has_names():
    assert stop_strings("step") == ["\n\n"]
    assert stop_strings("tokens") == []
    with pytest.raises(ValueError, match="unknown chunking 'page'; known: tokens, step, line, sentence"):
        stop_strings("page")


def test_sentences_end_chunks(solve, questions):
    _, events = solve("a1", questions[4], stop=stop_strings("line"), samples=1, gate=marginal(0.01))
    chunks = [event.text for event in events if isinstance(event, ChunkEvent) and not event.ended]
    assert chunks
    assert all(text.rstrip("\n") + "\n" == text or "\n\n" in text or not text.endswith("\n") for text in chunks)


def test_seeds_differ_by_generation_and_are_the_same_again(pair, questions, monkeypatch):
    seen = []
    for engine in pair.engines:

        async def keep(request, sampling, engine=engine):
            seen.append(sampling.get("sampling_seed"))
            return await type(engine).generate(engine, request, sampling)

        monkeypatch.setattr(engine, "generate", keep)

    def seeds(seed):
        seen.clear()
        a1.run(
            question=questions[5], gate=marginal(1e-6), samples=3, turns=2, draft_tokens=8, backend=pair, seed=seed,
            temperature=0,
        )  # fmt: skip
        return sorted(seen, key=str)

    first, again, other, none = seeds(7), seeds(7), seeds(8), seeds(None)
    assert len(set(first)) == len(first) >= 6
    assert first == again
    assert not set(first) & set(other)
    assert set(none) == {None}


def test_rehearsals_draw_with_seeds_of_their_own(pair, questions, monkeypatch):
    seen = []
    draft = pair.roles.writer.engine

    async def keep(request, sampling):
        seen.append(sampling["sampling_seed"])
        return await type(draft).generate(draft, request, sampling)

    monkeypatch.setattr(draft, "generate", keep)
    a1.run(
        question=questions[5], gate=marginal(0.01), samples=2, turns=2, draft_tokens=8, backend=pair, seed=7,
        presample=3, temperature=0.6,
    )  # fmt: skip
    assert len(set(seen)) == len(seen) >= 5


# --- streaming ------------------------------------------------------------------------------------------------


def test_a_stream_yields_events_and_returns_the_result(pair, questions):
    events = a1.stream(
        question=questions[6], gate=marginal(0.3), samples=2, turns=3, draft_tokens=16, backend=pair, **SAMPLING
    )
    seen, result = [], None
    while result is None:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            result = stop.value
    assert isinstance(seen[-1], AnswerEvent)
    assert tuple(event for event in seen if isinstance(event, ChainEvent)) == tuple(
        sorted(result.chains, key=lambda chain: chain.ended)
    )


def test_closing_a_stream_stops_its_calls(single, questions):
    events = direct.stream(question=questions[7], samples=4, backend=single, **LONG)
    next(events)
    events.close()
    single.flush_cache()  # the runtime refuses while a request is under way
    assert direct.run(question=questions[7], backend=single, max_tokens=8).ret_value.chains


def test_a_stream_that_is_never_read_runs_nothing(single, questions):
    direct.stream(question=questions[7], backend=single).close()
    single.flush_cache()


def test_a_stream_raises_what_its_program_raises(single, questions):
    with pytest.raises(ValueError, match="unknown vote"):
        list(direct.stream(question=questions[7], vote="loudest", backend=single))


def test_a_stream_is_the_listener(single, questions):
    with pytest.raises(ConfigError, match="a stream is the listener"):
        list(direct.stream(question=questions[7], listener=print, backend=single))


def test_a_stopped_program_says_so(single, questions):
    with stoppable() as handle:
        handle.stop()
        with pytest.raises(ChainAborted):
            direct.run(question=questions[7], backend=single)


# --- async ----------------------------------------------------------------------------------------------------


def test_a_program_can_be_awaited(pair, questions):
    async def two():
        arguments = {"samples": 2, "turns": 3, "draft_tokens": 16, "backend": pair, **SAMPLING}
        return await asyncio.gather(
            *(a1.arun(question=question, gate=marginal(0.3), **arguments) for question in questions[6:8])
        )

    states = asyncio.run(two())
    assert [state.ret_value.question for state in states] == questions[6:8]
    assert all(len(state.ret_value.chains) == 2 for state in states)


def test_what_is_awaited_raises_what_its_program_raises(single, questions):
    with pytest.raises(ConfigError, match="has no parameter 'wings'"):
        asyncio.run(direct.arun(question=questions[7], backend=single, wings=2))


def test_cancelling_what_is_awaited_aborts_its_chains(single, questions):
    events = []

    async def cancelled():
        running = asyncio.ensure_future(
            direct.arun(question=questions[7], samples=4, backend=single, listener=events.append, **LONG)
        )
        while not events:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not asyncio.all_tasks() - {asyncio.current_task()}

    asyncio.run(cancelled())
    single.flush_cache()  # the runtime refuses while a request is under way
    assert not any(isinstance(event, AnswerEvent) for event in events)
    assert direct.run(question=questions[7], backend=single, max_tokens=8).ret_value.chains


def test_an_async_stream_yields_events(single, questions):
    async def all_of_it():
        return [
            event async for event in direct.astream(question=questions[7], samples=2, max_tokens=20, backend=single)
        ]

    events = asyncio.run(all_of_it())
    assert isinstance(events[-1], AnswerEvent)
    assert sum(isinstance(event, ChainEvent) for event in events) == 2


def test_an_async_stream_raises_what_its_program_raises(single, questions):
    async def all_of_it():
        async for _ in direct.astream(question=questions[7], vote="loudest", backend=single):
            pass

    with pytest.raises(ValueError, match="unknown vote"):
        asyncio.run(all_of_it())


def test_an_async_stream_that_is_closed_early_stops_its_calls(single, questions):
    async def first():
        events = direct.astream(question=questions[7], samples=4, backend=single, **LONG)
        event = await anext(events)
        await events.aclose()
        return event

    assert asyncio.run(first()).event == "prompt"
    single.flush_cache()  # the runtime refuses while a request is under way


# --- a user's own program -------------------------------------------------------------------------------------

MINE = '''
import sglang as sgl
from a1_sgl.programs import program
from a1_sgl.session import run_chains

@program(samples=2)
@sgl.function
def mine(s, query, words=5):
    """Says little."""
    return run_chains(s, query, lambda chain: chain.draft(words))

@sgl.function
def odd(s, question):
    pass
'''


def test_a_program_in_a_file(tmp_path, single, questions):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    mine = find_program(f"{file}:mine")
    assert (mine.name, mine.about, mine.own) == ("mine", "Says little.", ["words"])
    assert (mine.joint, mine.gate, mine.takes_over, mine.samples) == (False, "none", False, 2)
    before = mine.source
    result = mine.run(question=questions[8], backend=single, **SAMPLING).ret_value
    assert [chain.ending for chain in result.chains] == ["turns", "turns"]
    file.write_text(MINE + "\n# changed")
    assert find_program(f"{file}:mine").source != before
    assert find_program("a1").source is None


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("beam", None, "unknown program 'beam'; known: direct"),
        ("mine.py", None, "say which program in it: .*mine.py:NAME"),
        ("none.py:mine", None, "there is no file .*none.py"),
        ("mine.py:yours", MINE, "has no program 'yours'; it has mine$"),
        ("mine.py:yours", "", "has no program 'yours'; it has none"),
        ("mine.py:odd", MINE, "odd is an @sgl.function, but nothing says what it needs; put @a1_sgl.programs.program"),
        ("mine.py:mine", "def mine(:", "cannot be loaded: SyntaxError"),
        ("mine.py:mine", "import nothing_of_that_name", "cannot be loaded: ModuleNotFoundError"),
        ("mine.py:mine", MINE.replace("words=5", "words"), "cannot be loaded: ConfigError: .* words needs a default"),
        ("mine.txt:mine", MINE, "is not a Python file"),
    ],
)
def test_a_program_that_cannot_be_found_is_named(name, text, why, tmp_path):
    if text is not None:
        (tmp_path / name.partition(":")[0]).write_text(text)
    with pytest.raises(ConfigError, match=why):
        find_program(str(tmp_path / name) if "." in name else name)


def test_a_program_must_have_the_form_it_is_declared_with():
    def asks(s, question):
        pass

    def gated(s, query, gate):
        pass

    def plain(s, query, words=5):
        pass

    def bare(s, query, words):
        pass

    def shared(s, query, samples=4):
        pass

    def sampling(s, query, temperature=1.0):
        pass

    for function, needs, why in (
        (asks, "none", r"program asks must begin \(s, query, ...\), not \(s, question, ...\)"),
        (plain, "required", r"program plain must begin \(s, query, gate, ...\), not \(s, query, words, ...\)"),
        (gated, "none", "program gated: its parameter gate needs a default"),
        (bare, "none", "program bare: its parameter words needs a default"),
        (shared, "none", "program shared: samples means something else in all programs"),
        (sampling, "none", "program sampling: temperature means something else in all programs"),
    ):
        with pytest.raises(ConfigError, match=why):
            program(gate=needs)(sgl.function(function))
    with pytest.raises(ConfigError, match="is no @sgl.function"):
        program()(plain)
    assert program()(sgl.function(plain)).own == ["words"]
    assert program(gate="optional")(sgl.function(gated)).own == []


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("a1", {}, "program a1 needs a gate, such as"),
        ("direct", {"gate": marginal(0.5)}, "program direct takes no gate"),
        ("direct", {"wings": 2}, "program direct has no parameter 'wings'; it has max_tokens, and SGLang's"),
        ("direct", {"max_new_tokens": 2}, "has no parameter 'max_new_tokens'"),
        ("direct", {"samples": 0}, "at least one chain, not 0"),
        ("direct", {"samples": ()}, "at least one chain"),
        ("direct", {"samples": (1, 1)}, "each once"),
        ("direct", {"samples": (-1,)}, "numbered from 0"),
        ("self_consistency", {"samples": (1, 2)}, "depend on each other, so it takes how many, not"),
        ("a1", {"gate": marginal(0.5), "backend": "single"}, "program a1 needs a draft and a target"),
    ],
)
def test_what_a_program_does_not_take_is_refused_before_it_runs(name, arguments, why, pair, single, questions):
    backend = single if arguments.get("backend") else pair
    with pytest.raises(ConfigError, match=why):
        PROGRAMS[name].run(question=questions[8], **{**arguments, "backend": backend})


def test_a_program_of_chains_runs_on_a_backend_of_runtimes(questions):
    from sglang.lang.backend.base_backend import BaseBackend

    with pytest.raises(ConfigError, match=r"runs on a1_sgl\.session\.Backend, not on BaseBackend"):
        direct.run(question=questions[8], backend=BaseBackend())


@pytest.mark.parametrize(
    ("program", "name", "value", "why"),
    [
        ("a1", "draft_tokens", 1.5, "draft_tokens must be a whole number, such as 500, not 1.5"),
        ("a1", "draft_tokens", True, "must be a whole number"),
        ("a1", "take_over", 3, "take_over must be 'continue', 'replace' or 'resample', such as 'continue', not 3"),
        ("a1_sync", "take_over", "resample", "take_over must be 'continue' or 'replace', such as"),
        ("a1", "score", 3, "score must be text"),
        ("a1", "turns", -1, "program a1: turns must be at least 1, such as 15, not -1"),
        ("a1", "retries", -1, "retries must be at least 0, such as 4, not -1"),
        ("spec_reason", "threshold", 99, "threshold must be at most 10, such as 7.0, not 99"),
        ("spec_reason", "threshold", math.nan, "threshold must be a finite number, such as 7.0, not nan"),
        ("spec_reason", "threshold", True, "threshold must be a number"),
        ("self_consistency", "error", 1, "error must be below 1, such as 0.05, not 1"),
        ("self_consistency", "stop_when", "soon", "stop_when must be 'never', 'decided' or 'certain'"),
        ("speculative_thinking", "reflection", ["wait", 3], "reflection.1 must be text"),
        ("spec_reason", "threshold", "high", "threshold must be a number"),
        ("speculative_thinking", "reflection", 3, "reflection must be a list"),
        ("a1", "wings", 3, "has no parameter 'wings'; it has turns, draft_tokens"),
    ],
)
def test_a_setting_of_another_kind_is_refused(program, name, value, why):
    with pytest.raises(ConfigError, match=why):
        PROGRAMS[program].check(name, value)


def test_a_setting_of_its_kind_is_taken():
    PROGRAMS["spec_reason"].check("threshold", 7)
    PROGRAMS["a1"].check("draft_tokens", 7)
    PROGRAMS["speculative_thinking"].check("reflection", ["a"])
    assert PROGRAMS["a1"].default("draft_tokens") == 500
    assert PROGRAMS["speculative_thinking"].check("reflection", ["a"]) == ("a",)


def test_a_program_says_what_its_parameters_may_be_or_its_defaults_do():
    def mine(s, query, greedy=False, words=5, cues=["a"], rest=None, few: Annotated[int, Field(le=3)] = 1):  # noqa: B006
        pass

    checked = program()(sgl.function(mine))
    assert checked.check("cues", ("b", "c")) == ["b", "c"]
    assert checked.check("rest", {"any": "thing"}) == {"any": "thing"}
    for name, value, why in (
        ("greedy", "maybe", "program mine: greedy must be true or false, such as False, not 'maybe'"),
        ("greedy", 1, "greedy must be true or false"),
        ("words", "5", "words must be a whole number"),
        ("cues", "a", "cues must be a list"),
        ("few", 4, "few must be at most 3, such as 1, not 4"),
    ):
        with pytest.raises(ConfigError, match=why):
            checked.check(name, value)

    def odd(s, query, words: "Nothing" = 5):  # noqa: F821
        pass

    with pytest.raises(ConfigError, match="program odd: the annotation of a parameter cannot be read: .*'Nothing'"):
        program()(sgl.function(odd))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_default_is_a_value_that_is_taken(name):
    for own in PROGRAMS[name].own:
        assert PROGRAMS[name].check(own, PROGRAMS[name].default(own)) == PROGRAMS[name].default(own)


def test_a_setting_is_refused_with_the_same_words_wherever_it_comes_from(tmp_path):
    """From Python, from the command line or a recipe, which are an eval's parameters, and from a task's defaults."""
    why = "program a1: turns must be at least 1, such as 15, not -1"
    fakes = Backend(Roles.pair(FakeEngine("1 + 1 = 2\n\n"), FakeEngine("so \\boxed{2}", scores=-0.5)))
    with pytest.raises(ConfigError, match=f"^{why}$"):
        a1.run(question="1 + 1?", gate=marginal(0.5), backend=fakes, turns=-1)
    assert not [call for engine in fakes.engines for call in engine.calls]
    task = find_task("chain")
    given = {"split": "test", "program": "a1", "runtime": None, "chains": 1, "sampling": {}, "alpha": 0.5}
    with pytest.raises(ConfigError, match=f"^{why}$"):
        Eval(task, parameters={"turns": -1}, **given)
    with pytest.raises(ConfigError, match=f"^{why}$"):
        Eval(replace(task, defaults={"turns": -1}), **given)


def test_what_returns_no_result_is_no_program_and_ends_the_run(tmp_path):
    def mine(s, query, words=5):
        run_chains(s, query, lambda chain: chain.draft(words))
        return "42"

    broken = program(samples=2)(sgl.function(mine))
    why = "program mine returned '42' and must return a Result: what run_chains, Group.run or Group.finish returns"
    fake = Backend(Roles.alone(FakeEngine("so \\boxed{2}")))
    with pytest.raises(ConfigError, match=why):
        broken.run(question="1 + 1?", backend=fake)
    with pytest.raises(ConfigError, match=why):
        asyncio.run(broken.arun(question="1 + 1?", backend=fake))
    (tmp_path / "mine.py").write_text(MINE.replace("return run_chains(", "return '42' or run_chains("))
    made = Eval(
        find_task("chain"), split="test", program=f"{tmp_path}/mine.py:mine", runtime="target", chains=2, questions=3,
        sampling={},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=why):
        evaluate(made, fake, tmp_path / "run")


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_refused_before_it_is_asked(question):
    fake = Backend(Roles.alone(FakeEngine("so \\boxed{2}")))
    with pytest.raises(ConfigError, match="the question is empty"):
        direct.run(question=question, backend=fake)
    assert not fake.engines[0].calls


def test_programs_have_distinct_names():
    assert len({one.name for one in PROGRAMS.values()}) == len(PROGRAMS)
    assert all(isinstance(one, Program) and one.about for one in PROGRAMS.values())
    assert all(a != b for a, b in itertools.combinations([one.about for one in PROGRAMS.values()], 2))


def test_images_go_with_every_call_and_shift_what_is_scored(pair, questions, monkeypatch):
    """A text model is served here, so the images themselves are taken out of what is sent."""
    sent = []
    for engine in pair.engines:
        asked = engine._payload

        def keep(*given, asked=asked, engine=engine, **rest):
            payload = asked(*given, **rest)
            sent.append((engine.name, payload))
            return {key: value for key, value in payload.items() if key != "image_data"}

        monkeypatch.setattr(engine, "_payload", keep)
    asked = questions[9].model_copy(update={"images": ("https://example.org/figure.png",)})
    a1.run(question=asked, gate=marginal(0.5), samples=2, turns=2, draft_tokens=8, backend=pair, **SAMPLING)
    assert {name for name, _ in sent} == {"draft", "target"}
    assert all(payload["image_data"] == ["https://example.org/figure.png"] for _, payload in sent)


# --- a gate knows when its questions begin and end ------------------------------------------------------------


def test_a_program_begins_its_question_when_it_is_called_and_ends_it_whatever_happens():
    told, gate = [], make("marginal", 0.5)
    gate.begin = lambda question: told.append(("begin", question))
    gate.end = lambda question: told.append(("end", question))
    fine, broken = (
        Backend(Roles.pair(FakeEngine("1 + 1 = 2\n\n", faults=fault), FakeEngine("so \\boxed{2}", scores=-0.5)))
        for fault in (None, lambda call: RuntimeFault("no") if call.kind == "generate" else None)
    )

    async def both():
        first, second = (
            PROGRAMS["a1"].arun(question=Question.of(name), backend=fine, gate=gate, turns=2, stop=["\n\n"])
            for name in "ab"
        )
        await asyncio.gather(first, second)

    asyncio.run(both())
    a, b = (Question.of(name).id for name in "ab")
    assert told[:2] == [("begin", a), ("begin", b)]
    assert sorted(told[2:]) == sorted([("end", a), ("end", b)])
    told.clear()
    with pytest.raises(RuntimeFault):
        PROGRAMS["a1"].run(question="a", backend=broken, gate=gate, turns=2)
    assert told == [("begin", a), ("end", a)]
