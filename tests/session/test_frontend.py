"""SGLang's frontend language on engines: plain programs, and how a backend is made and closed."""

import asyncio
import base64
import threading

import numpy as np
import pytest
import sglang as sgl
from sglang.lang.backend.base_backend import BaseBackend

from a1_sgl.engine import SGLang
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault
from a1_sgl.session import Backend, Query, Roles, run_chains, stoppable
from a1_sgl.testing import FakeEngine


@pytest.fixture
def fake():
    """Writes one line after another, as many as are asked for."""
    return FakeEngine(["one\n", "two\n", "three\n"], name="one")


def alone(engine):
    return Backend(Roles.alone(engine))


def asked(engine, kind):
    return [call for call in engine.calls if call.kind == kind]


# --- plain programs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_thread", [True, False])
def test_what_was_written_goes_back_as_it_was(fake, use_thread):
    """Its ids are kept, and what the program puts in between is encoded by itself, once."""

    @sgl.function
    def program(s):
        s += "count: "
        s += sgl.gen("first", max_tokens=10, stop="\n")
        s += "and "
        s += sgl.gen("second", max_tokens=3)

    state = program.run(backend=alone(fake), use_thread=use_thread)
    assert state.text() == "count: one\nand two"
    assert [call.prompt for call in asked(fake, "generate")] == ["count: ", "count: one\nand "]
    meta = state.get_meta_info("first")
    assert (meta["output_ids"], meta["ended"], meta["spent"].completion_tokens) == (list(b"one\n"), False, 4)
    assert state.get_meta_info("second")["ended"] is False


def test_sampling_is_passed_on_under_its_own_names(fake):
    @sgl.function
    def program(s):
        s += "count: "
        s += sgl.gen("said", max_tokens=10, stop=["\n"], temperature=0.3, regex="[a-z]+\n", return_logprob=True)

    program.run(backend=alone(fake), top_p=0.9, use_thread=False)
    (call,) = asked(fake, "generate")
    said = dict(call.sampling)
    expected = {"max_new_tokens": 10, "temperature": 0.3, "top_p": 0.9, "stop": ["\n"], "regex": "[a-z]+\n"}
    assert expected.items() <= said.items()
    assert said["return_logprob"] is True
    assert said["no_stop_trim"] is True
    assert None not in said.values()


@pytest.mark.parametrize("use_thread", [True, False])
def test_a_fork_computes_the_common_text_once_on_every_runtime(use_thread):
    one, two = FakeEngine("left\n", name="one"), FakeEngine(name="two")

    @sgl.function
    def program(s):
        s += "which way? "
        s.sync()  # without it SGLang's worker may not have seen the text that the forks are to share
        forks = s.fork(3)
        forks += sgl.gen("way", max_tokens=9, stop="\n")
        forks.join()
        s += forks[0]["way"]

    state = program.run(backend=Backend(Roles.pair(one, two)), use_thread=use_thread)
    assert state.text() == "which way? left\n"
    for engine in (one, two):
        assert [call.prompt for call in asked(engine, "prefill")] == ["which way? "]
    assert [call.prompt for call in asked(one, "generate")] == ["which way? "] * 3


def test_a_fork_goes_its_own_way():
    engine = FakeEngine(lambda call: call.prompt[-2] + "\n", name="one")

    @sgl.function
    def program(s):
        s += "ways: "
        forks = s.fork(2)
        forks[0] += "a "
        forks[1] += "b "
        for fork in forks:
            fork += sgl.gen("said", max_tokens=9)
        s += forks[0]["said"] + forks[1]["said"]
        s += "c "
        s += sgl.gen("last", max_tokens=9)

    assert program.run(backend=alone(engine)).text() == "ways: a\nb\nc c\n"


@pytest.mark.parametrize(
    ("method", "chosen"),
    [(sgl.token_length_normalized, "short"), (sgl.greedy_token_selection, "a longer one")],
)
def test_select_goes_by_its_method(method, chosen):
    """The longer choice begins better and is worse on the whole."""

    def scores(before, text):
        return [-1.0] * len(text) if text == "short" else [-0.5, *[-9.0] * (len(text) - 1)]

    engine = FakeEngine("and on\n", scores=scores)

    @sgl.function
    def program(s):
        s += "which? "
        s += sgl.select("word", ["short", "a longer one"], choices_method=method)
        s += sgl.gen("rest", max_tokens=20)

    state = program.run(backend=alone(engine))
    assert state["word"] == chosen
    assert state.text() == f"which? {chosen}and on\n"
    starts = {(call.prompt, call.start) for call in asked(engine, "score")}
    assert starts == {("which? short", 7), ("which? a longer one", 7)}
    assert [call.prompt for call in asked(engine, "generate")] == [f"which? {chosen}"]


def test_select_refuses_a_method_before_it_pays():
    engine = FakeEngine()

    @sgl.function
    def program(s):
        s += "2 + 2 = "
        s += sgl.select("word", ["4", "5"], choices_method=sgl.unconditional_likelihood_normalized)

    assert isinstance(program.run(backend=alone(engine)).error(), ConfigError)
    with pytest.raises(ConfigError, match="UnconditionalLikelihoodNormalized is not supported"):
        program.run(backend=alone(engine), use_thread=False)
    assert engine.calls == []


def test_images_go_with_every_call(fake, tmp_path):
    """As SGLang encodes them, whatever the call; they are the fork's too."""
    from PIL import Image

    Image.new("RGB", (2, 2)).save(tmp_path / "figure.png")

    @sgl.function
    def program(s):
        s += "what is "
        s += sgl.image(str(tmp_path / "figure.png"))
        s += "? "
        s += sgl.gen("said", max_tokens=9)
        s.sync()
        forks = s.fork(2)
        forks += sgl.gen("more", max_tokens=9)
        forks.join()
        s += sgl.select("word", ["a", "b"])

    assert not isinstance(program.run(backend=alone(fake)).error(), Exception)
    assert {call.kind for call in fake.calls} == {"generate", "prefill", "score"}
    sent = {call.request.images for call in fake.calls}
    assert len(sent) == 1
    ((image,),) = sent
    assert base64.b64decode(image) == (tmp_path / "figure.png").read_bytes()


def test_a_stream_comes_in_pieces(fake):
    @sgl.function
    def program(s):
        s += "count: "
        s += sgl.gen("said", max_tokens=10, stop="\n")
        s += sgl.gen("more", max_tokens=10, stop="\n")

    state = program.run(backend=alone(fake), stream=True)
    assert list(state.text_iter("said")) in (["on", "e\n"], ["one\n"])  # a slow reader finds both at once
    assert "".join(state.text_iter()) == "count: one\ntwo\n"
    assert state.get_meta_info("said")["output_ids"] == list(b"one\n")
    assert [call.prompt for call in asked(fake, "generate")] == ["count: ", "count: one\n"]


def test_async_pieces_come_too(fake):
    @sgl.function
    def program(s):
        s += "count: "
        s += sgl.gen("said", max_tokens=10, stop="\n")

    async def read():
        state = program.run(backend=alone(fake), stream=True)
        return [piece async for piece in state.text_async_iter("said")]

    assert "".join(asyncio.run(read())) == "one\n"


def test_many_arguments_at_once(fake):
    @sgl.function
    def program(s, word):
        s += f"{word}: "
        s += sgl.gen("said", max_tokens=10, stop="\n")

    states = program.run_batch([{"word": f"w{i}"} for i in range(9)], backend=alone(fake), num_threads=4)
    assert sorted(state.text().partition(":")[0] for state in states) == [f"w{i}" for i in range(9)]
    assert len(asked(fake, "generate")) == 9


def test_a_text_that_was_changed_is_encoded_anew(fake):
    @sgl.function
    def program(s):
        s += "count: "
        s += sgl.gen("said", max_tokens=10, stop="\n")
        s.stream_executor.text_ = "start over: "
        s += sgl.gen("more", max_tokens=10, stop="\n")

    program.run(backend=alone(fake), use_thread=False)
    assert [call.prompt for call in asked(fake, "generate")] == ["count: ", "start over: "]


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_is_the_programs_error(stream):
    engine = FakeEngine(faults=lambda call: RuntimeFault("no memory"))

    @sgl.function
    def program(s):
        s += "count: "
        s += sgl.gen("said", max_tokens=10)

    state = program.run(backend=alone(engine), stream=stream)
    assert "".join(state.text_iter()) == "count: "
    assert isinstance(state.error(), RuntimeFault)
    if not stream:
        with pytest.raises(RuntimeFault, match="no memory"):
            program.run(backend=alone(engine), use_thread=False)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_stopped_is_an_aborted_chain_and_no_fault(stream):
    under_way = threading.Event()

    def delay(call):
        under_way.set()
        return 600.0

    engine = FakeEngine("one\n" * 20, delay=delay)

    @sgl.function
    def program(s):
        s += "count: "
        s += sgl.gen("said", max_tokens=100)

    with stoppable() as handle:

        def stop():
            assert under_way.wait(60)
            handle.stop()

        thread = threading.Thread(target=stop)
        thread.start()
        state = program.run(backend=alone(engine), stream=stream)
        state.text()
        assert isinstance(state.error(), ChainAborted)
        thread.join()
    assert engine.running == 0


@pytest.mark.parametrize("use_thread", [True, False])
def test_a_program_of_ones_own_writes_chains_and_more(use_thread):
    """Plain steps and chains in one program, on SGLang's worker thread or on none."""
    draft, target = FakeEngine("2 \\boxed{2}\n", name="one"), FakeEngine(name="two")

    @sgl.function
    def program(s, query):
        result = run_chains(s, query, lambda chain: chain.draft(20))
        s += f"said {result.answer}, "
        s += sgl.gen("more", max_tokens=3)
        return result

    backend = Backend(Roles.pair(draft, target))
    state = program.run(query=Query.of("1 + 1?", 3), backend=backend, use_thread=use_thread)
    assert state.ret_value.answer == "2"
    assert state.text() == "user: 1 + 1?\nassistant: said 2, 2 \\"


# --- making and closing ---------------------------------------------------------------------------------------


class Closing(FakeEngine):
    """Counts how often it was closed."""

    closed = 0

    async def close(self):
        self.closed += 1


def test_closing_stops_and_closes_each_engine_once():
    one, two = Closing(name="one"), Closing(name="two")
    with Backend(Roles.pair(one, two)) as backend:
        part = backend.alone("draft")
    assert (one.closed, two.closed) == (1, 1)
    with Backend(Roles.pair(one, one)):
        pass
    assert one.closed == 2
    for stopped in (backend, part):
        with pytest.raises(ChainAborted):
            _one_line(stopped)


def _one_line(backend):
    @sgl.function
    def program(s):
        s += "count: "
        s += sgl.gen("said", max_tokens=10)

    return program.run(backend=backend, use_thread=False)


def test_a_block_that_fails_closes_too():
    engine = Closing()
    with pytest.raises(ZeroDivisionError), alone(engine):
        raise ZeroDivisionError
    assert engine.closed == 1


def test_caches_are_emptied_on_every_runtime():
    one, two = FakeEngine(name="one"), FakeEngine(name="two")
    backend = Backend(Roles.pair(one, two))
    for engine in (one, two):
        engine._cache.add(1)
    backend.flush_cache()
    assert not one._cache
    assert not two._cache
    assert backend.get_model_name() == "fake"
    assert isinstance(backend, BaseBackend)


def test_a_pair_is_connected_by_role(runtimes):
    with Backend.connect(target=runtimes["target"].url) as one:
        assert [(role.name, role.engine.name) for role in one.roles.all] == [("target", "target")]
    with Backend.connect(runtimes["draft"].url) as one:
        assert [(role.name, role.engine.name) for role in one.roles.all] == [("draft", "draft")]
        assert one.roles.successor is None
    with Backend.connect(
        runtimes["draft"].url, runtimes["target"].url, verifier=runtimes["stranger"].url, in_flight=3
    ) as three:
        assert [(role.name, role.engine.name) for role in three.roles.all] == [
            (name, name) for name in ("draft", "verifier", "target")
        ]
        assert three.admission.limit == 3


def test_several_urls_are_one_role(runtimes):
    url = runtimes["target"].url
    with Backend.connect(target=[url, url]) as fleet:
        (role,) = fleet.roles.all
        assert role.name == role.engine.name == "target"
        assert not isinstance(role.engine, SGLang)
        assert _one_line(fleet)["said"]
    with Backend.connect(target=[url]) as one:
        assert isinstance(one.roles.writer.engine, SGLang)


def test_runtimes_of_different_models_make_no_role_and_are_let_go(runtimes, monkeypatch):
    closed = []

    async def close(engine):
        closed.append(engine.name)
        await engine.transport.close()

    monkeypatch.setattr(SGLang, "close", close)
    with pytest.raises(ConfigError, match="model"):
        Backend.connect(target=[runtimes["target"].url, runtimes["draft"].url])
    assert sorted(closed) == ["target-0", "target-1"]


def test_ids_of_a_plain_program_are_those_that_were_written(single):
    """Real ids: encoding the text anew would give others."""
    engine, sent = single.roles.writer.engine, []
    generate = engine.generate

    async def keep(request, sampling):
        sent.append(request.ids)
        return await generate(request, sampling)

    engine.generate = keep

    @sgl.function
    def program(s):
        s += "Start with 39. Multi"
        s += "ply by 2."
        s += sgl.gen("said", max_tokens=7, ignore_eos=True)
        s += sgl.gen("more", max_tokens=2, ignore_eos=True)

    state = program.run(backend=single, temperature=1.0)
    assert not isinstance(state.error(), Exception)
    first, second = sent
    assert np.array_equal(second[: len(first)], first)
    assert second[len(first) :].tolist() == state.get_meta_info("said")["output_ids"]
