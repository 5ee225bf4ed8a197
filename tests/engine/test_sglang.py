"""SGLang over HTTP against real runtimes: scores, boundaries, prefix cache, errors; and under SGLang's own frontend."""

import asyncio

import numpy as np
import pytest
import sglang as sgl

from a1_sgl.engine import Request, Scope, Settings, wait
from a1_sgl.engine.pace import Pace
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault
from a1_sgl.session import Backend, Roles

PROMPT = "Start with 39. Multiply by 2. Subtract 18. What is the result?"
STEP = "39 * 2 = 78\n\n78 - 18 = 60\n\n"


def request(*ids, **rest):
    return Request(np.array([one for some in ids for one in some], np.int32), **rest)


def score(engine, prefix, chunk):
    return wait(engine.score(request(prefix, chunk), len(prefix)))


def prefill(engine, *ids):
    return wait(engine.prefill(request(*ids)))


async def streamed(engine, *given):
    return [piece async for piece in engine.stream(*given)]


@pytest.fixture(params=["draft", "target", "other"])
def each(request):
    return request.getfixturevalue(request.param)


def test_scores_are_those_of_transformers(each, reference):
    prefix, chunk = each.codec.encode(PROMPT), each.codec.encode(STEP)
    found = score(each, prefix, chunk).logprobs
    assert len(found) == len(chunk)
    assert found == pytest.approx(reference(each.identity.model, [*prefix, *chunk])[len(prefix) - 1 :], abs=1e-4)


def test_next_tokens_are_those_of_transformers(each, reference):
    prefix, choices = each.codec.encode(PROMPT), list(range(5, 15))
    found = wait(each.next_token(request(prefix), choices))
    expected = [reference(each.identity.model, [*prefix, one])[-1] for one in choices]
    assert found.logprobs == pytest.approx(expected, abs=1e-4)
    assert found.spent.completion_tokens == 0


def test_a_boundary_inside_a_merge_scores_exactly_the_chunks_tokens(target, reference):
    """The pieces "Multi" and "ply" are other tokens than "Multiply"; they are scored as they were generated."""
    prefix, chunk = target.codec.encode(PROMPT + " Multi"), target.codec.encode("ply by 2.")
    assert target.codec.encode(PROMPT + " Multiply by 2.") != prefix + chunk
    found = score(target, prefix, chunk).logprobs
    assert len(found) == len(chunk)
    assert found == pytest.approx(reference(target.identity.model, [*prefix, *chunk])[len(prefix) - 1 :], abs=1e-4)


def test_a_score_does_not_depend_on_what_is_cached(target):
    prefix, chunk = target.codec.encode(PROMPT + "\n"), target.codec.encode(STEP)
    wait(target.flush())
    cold, warm = score(target, prefix, chunk), score(target, prefix, chunk)
    assert cold.spent.cached_tokens == 0
    assert warm.spent.cached_tokens == len(prefix) - 1
    assert warm.logprobs == pytest.approx(cold.logprobs, abs=1e-5)


def test_verifying_keeps_the_prefix_cache(target):
    prefix, chunk = target.codec.encode(PROMPT + "\n\n"), target.codec.encode(STEP)
    wait(target.flush())
    prefill(target, prefix)
    verify = score(target, prefix, chunk).spent
    assert verify.cached_tokens == len(prefix) - 1
    assert verify.completion_tokens == 0
    assert prefill(target, prefix, chunk, prefix).cached_tokens == len(prefix) + len(chunk)


def test_a_generation_is_exact_to_the_token(target):
    """Its text is that of its ids, what it cost is what was sent and written, and the same comes in a stream."""
    prompt = target.codec.encode(PROMPT)
    sampling = {"max_new_tokens": 12, "temperature": 0.0, "ignore_eos": True}
    whole = wait(target.generate(request(prompt), sampling))
    assert len(whole.ids) == whole.spent.completion_tokens == 12
    assert target.codec.decode(whole.ids) == whole.text
    assert whole.spent.prompt_tokens == len(prompt)
    assert whole.spent.runtime == target.name
    assert not whole.ended
    assert not whole.aborted
    *pieces, last = wait(streamed(target, request(prompt), sampling))
    assert "".join(pieces) == last.text == whole.text
    assert last.ids == whole.ids
    assert last.spent.completion_tokens == 12


def test_a_generation_that_may_be_long_is_the_same_in_pieces(target, questions, monkeypatch):
    """Beyond a length it is asked for in pieces, so that silence is told from length."""
    prompt = target.codec.encode(target.codec.render(questions[0].messages))
    sampling = {"max_new_tokens": 300, "temperature": 0.0}
    monkeypatch.setattr(Pace, "piece", lambda *_: None)
    short = wait(target.generate(request(prompt), sampling))
    monkeypatch.setattr(Pace, "piece", lambda *_: 16)
    long = wait(target.generate(request(prompt), sampling))
    assert long.ended
    assert (short.text, short.ids, short.ended) == (long.text, long.ids, long.ended)


def test_an_end_token_is_in_the_account_and_not_in_the_ids(target, questions):
    prompt = target.codec.encode(target.codec.render(questions[0].messages))
    said = wait(target.generate(request(prompt), {"max_new_tokens": 400, "temperature": 0.0}))
    assert said.ended
    assert len(said.ids) == said.spent.completion_tokens - 1
    assert target.codec.eos not in said.ids


@pytest.mark.parametrize("in_pieces", [False, True])
def test_what_is_written_comes_with_its_log_probabilities(each, reference, in_pieces, monkeypatch):
    """At temperature 1 whatever it is sampled at, those of transformers, and the prefix cache is used as without."""
    prompt = each.codec.encode(PROMPT)
    wait(each.flush())
    prefill(each, prompt)
    if in_pieces:
        monkeypatch.setattr(Pace, "piece", lambda *_: 4)
    sampling = {"max_new_tokens": 20, "temperature": 0.6, "top_p": 0.9}
    plain = wait(each.generate(request(prompt), sampling))
    found = wait(each.generate(request(prompt, logprobs=20), sampling))
    assert (plain.logprobs, plain.first) == (None, None)
    assert found.spent.cached_tokens == plain.spent.cached_tokens == len(prompt) - 1
    end = [each.codec.eos] * (found.ended and len(found.logprobs) > len(found.ids))
    expected = reference(each.identity.model, [*prompt, *found.ids, *end])[len(prompt) - 1 :]
    # A character that the limit has torn is left out, with its log-probabilities.
    assert len(found.logprobs) == len(found.ids) + len(end)
    assert 0 <= found.spent.completion_tokens - len(found.logprobs) <= 3
    assert found.logprobs == pytest.approx(expected, abs=1e-4)
    every = wait(each.next_token(request(prompt), range(each.limits.vocabulary))).logprobs
    assert found.first == pytest.approx(sorted(every, reverse=True)[:20], abs=1e-4)
    assert wait(each.generate(request(prompt, logprobs=0), sampling)).first is None


def test_an_end_token_has_a_log_probability_too(target, questions, reference):
    prompt = target.codec.encode(target.codec.render(questions[0].messages))
    said = wait(target.generate(request(prompt, logprobs=0), {"max_new_tokens": 400, "temperature": 0.0}))
    assert said.ended
    expected = reference(target.identity.model, [*prompt, *said.ids, target.codec.eos])[len(prompt) - 1 :]
    assert said.logprobs == pytest.approx(expected, abs=1e-4)
    *_, last = wait(streamed(target, request(prompt, logprobs=0), {"max_new_tokens": 400, "temperature": 0.0}))
    assert last.logprobs == pytest.approx(said.logprobs, abs=1e-5)


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_generation_that_is_stopped_returns_what_there_is(target, in_pieces, monkeypatch):
    scope = Scope()
    monkeypatch.setattr(Pace, "piece", lambda *_: 64 if in_pieces else None)

    async def stopped():
        sampling = {"max_new_tokens": 400, "temperature": 0.6, "ignore_eos": True}
        under_way = asyncio.ensure_future(target.generate(request([5, 6, 7], scope=scope), sampling))
        await asyncio.sleep(0.3)
        scope.stop()
        return await under_way

    said = wait(stopped())
    assert said.aborted
    assert len(said.ids) <= said.spent.completion_tokens < 400
    wait(target.flush())  # the runtime refuses while a request is under way
    with pytest.raises(ChainAborted):
        wait(target.prefill(request([5, 6], scope=scope)))


def test_a_score_that_is_stopped_says_so(target):
    scope = Scope()
    scope.stop()
    with pytest.raises(ChainAborted):
        wait(target.score(request([5, 6, 7], scope=scope), 1))


def test_limits_and_capabilities(draft, other):
    assert draft.limits.context == other.limits.context == 512
    assert draft.limits.vocabulary == 384
    assert prefill(draft, [5] * draft.limits.longest_prompt).prompt_tokens == draft.limits.longest_prompt
    with pytest.raises(RuntimeFault, match="answered 400"):
        prefill(draft, [5] * (draft.limits.longest_prompt + 1))
    assert draft.available
    assert draft.capabilities.images in (None, False)


def test_a_stop_string_stays_in_text_and_ids(target, questions):
    prompt = target.codec.encode(target.codec.render(questions[0].messages))
    sampling = {"max_new_tokens": 40, "temperature": 0.0, "stop": ["\n\n"], "no_stop_trim": True}
    said = wait(target.generate(request(prompt), sampling))
    assert said.text.endswith("\n\n")
    assert target.codec.decode(said.ids) == said.text
    assert not said.ended


@pytest.mark.parametrize(("prefix", "chunk"), [([], [5]), ([5], [])])
def test_nothing_to_score_is_an_error_not_a_zero(target, prefix, chunk):
    with pytest.raises(ValueError, match="a score needs"):
        score(target, prefix, chunk)


def test_an_empty_prompt_is_refused(target):
    with pytest.raises(RuntimeFault, match="the prompt is empty"):
        prefill(target, [])


@pytest.mark.parametrize("bad", [-1, 384, 10**9])
def test_an_id_outside_the_vocabulary_is_stopped_before_it_kills_the_server(target, bad):
    with pytest.raises(RuntimeFault, match=f"token id {bad} is outside its vocabulary of 384"):
        prefill(target, [5, bad])
    with pytest.raises(RuntimeFault, match=f"token id {bad} is outside its vocabulary of 384"):
        wait(target.next_token(request([5, 6]), [5, bad]))
    prefill(target, [5, 6])


def test_a_prompt_over_the_context_is_refused_with_its_length(target):
    with pytest.raises(RuntimeFault, match=r"target runtime http.*/generate answered 400: .*600 tokens"):
        prefill(target, [5] * 600)


def test_image_tokens_are_counted_before_a_scored_chunk(target, monkeypatch):
    sent = []

    async def keep(payload, scope, read, route):
        sent.append(payload)
        plain = {key: value for key, value in payload.items() if key != "image_data"}  # a text model is served here
        return await type(target.transport).call(
            target.transport, {**plain, "logprob_start_len": 34}, scope, read, route
        )

    monkeypatch.setattr(target.transport, "call", keep)
    for images, count in (((), 0), (("https://example.org/figure.png",), 576)):
        asked = request(range(5, 40), range(60, 70), images=images, image_tokens=count)
        assert len(wait(target.score(asked, 35)).logprobs) == 10
    assert [payload["logprob_start_len"] for payload in sent] == [34, 34 + 576]
    assert [payload.get("image_data") for payload in sent] == [None, ["https://example.org/figure.png"]]


# --- under SGLang's frontend ----------------------------------------------------------------------------------


def test_a_priority_goes_with_its_request(target, monkeypatch):
    """And harms nothing where the runtime's queue has no order."""
    sent, call = [], target.transport.call

    def spy(payload, *rest):
        sent.append(payload)
        return call(payload, *rest)

    monkeypatch.setattr(target.transport, "call", spy)
    for priority in (None, -1):
        assert wait(target.prefill(request(range(5, 35), priority=priority))).prompt_tokens == 30
    assert [payload.get("priority", "none") for payload in sent] == ["none", -1]


def test_what_was_generated_is_a_cache_hit_to_the_last_token(draft):
    @sgl.function
    def twice(s):
        s += PROMPT
        s += sgl.gen("first", max_tokens=12, ignore_eos=True)
        s += sgl.gen("second", max_tokens=5, ignore_eos=True)

    wait(draft.flush())
    state = twice.run(backend=Backend(Roles.alone(draft)), temperature=1.0)
    first, second = (state.get_meta_info(name)["spent"] for name in ("first", "second"))
    assert first.completion_tokens == 12
    assert second.prompt_tokens == len(draft.codec.encode(PROMPT)) + 12
    # The last generated token has no key-value entry yet; everything before it has.
    assert second.cached_tokens == second.prompt_tokens - 1
    assert state.text() == PROMPT + state["first"] + state["second"]


def test_a_plain_program_forks_and_selects(single):
    @sgl.function
    def program(s):
        s += PROMPT
        forks = s.fork(3)
        forks += sgl.gen("said", max_tokens=4)
        forks.join()
        s += sgl.select("word", ["\n\n", " Multiply by 2."])

    single.flush_cache()
    state = program.run(backend=single, temperature=0.0)
    assert len(state["said"]) == 3
    assert len(set(state["said"])) == 1
    assert state["word"] in ("\n\n", " Multiply by 2.")


def test_streaming_gives_the_same_text_as_it_grows(single):
    @sgl.function
    def program(s):
        s += PROMPT
        s += sgl.gen("said", max_tokens=12, ignore_eos=True)

    whole = program.run(backend=single, temperature=0.0)["said"]
    state = program.run(backend=single, temperature=0.0, stream=True)
    pieces = list(state.text_iter("said"))
    assert "".join(pieces) == whole
    assert state.get_meta_info("said")["spent"].completion_tokens == 12


def test_a_failed_generation_in_a_program_leaves_its_reason(single):
    @sgl.function
    def program(s):
        s += "x " * 700
        s += sgl.gen("said", max_tokens=4)

    state = program.run(backend=single)
    assert isinstance(state.error(), RuntimeFault)


# --- connecting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["localhost:30000", "", "ftp://x"])
def test_what_is_no_url_is_refused(url, engine):
    with pytest.raises(ConfigError, match="not a URL"):
        engine(url)


def test_nothing_listening_names_the_runtime(engine):
    with pytest.raises(RuntimeFault, match=r"draft runtime http://127\.0\.0\.1:9: .* is the runtime up"):
        engine("http://127.0.0.1:9", "draft")


def test_a_tokenizer_that_cannot_be_read_is_named(runtimes, engine, tmp_path):
    with pytest.raises(ConfigError, match="tokenizer .*nowhere.* cannot be loaded"):
        engine(runtimes["target"].url, tokenizer=str(tmp_path / "nowhere"))


def test_after_abort_every_call_says_so(single):
    @sgl.function
    def program(s):
        s += PROMPT
        s += sgl.gen("said", max_tokens=4)

    single.abort()
    assert isinstance(program.run(backend=single).error(), ChainAborted)


def test_identity_tells_models_and_tokenizers_apart(draft, target, other):
    a, b, c = draft, target, other
    assert len({one.identity.model_sha256 for one in (a, b, c)}) == 3
    assert a.codec.tokenizer_key == b.codec.tokenizer_key != c.codec.tokenizer_key
    assert a.codec.template_key == b.codec.template_key != c.codec.template_key
    assert a.identity.parameters < b.identity.parameters


@pytest.mark.parametrize("name", ["silence", "patience", "attempts", "in_flight"])
def test_settings_without_sense_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} must be above 0"):
        Settings(**{name: 0})
