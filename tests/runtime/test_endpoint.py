"""The client against real runtimes: scores, boundaries, prefix cache, errors."""

import pytest
import sglang as sgl

from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault
from a1_sgl.runtime import Endpoint, chat

PROMPT = "Start with 39. Multiply by 2. Subtract 18. What is the result?"
STEP = "39 * 2 = 78\n\n78 - 18 = 60\n\n"


@pytest.mark.parametrize("name", ["draft", "target", "other"])
def test_losses_are_those_of_transformers(name, request, reference):
    endpoint = request.getfixturevalue(name)
    prefix, chunk = endpoint.encode(PROMPT), endpoint.encode(STEP)
    loss, _ = endpoint.loss(prefix, chunk)
    expected = [-value for value in reference(endpoint.model, [*prefix, *chunk])[len(prefix) - 1 :]]
    assert loss.tokens == len(chunk)
    assert loss.values == pytest.approx(expected, abs=1e-4)
    assert loss.mean == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_a_boundary_inside_a_merge_scores_exactly_the_chunks_tokens(target, reference):
    """The pieces "Multi" and "ply" are other tokens than "Multiply"; they are scored as they were generated."""
    prefix, chunk = target.encode(PROMPT + " Multi"), target.encode("ply by 2.")
    assert target.encode(PROMPT + " Multiply by 2.") != prefix + chunk
    loss, _ = target.loss(prefix, chunk)
    expected = [-value for value in reference(target.model, [*prefix, *chunk])[len(prefix) - 1 :]]
    assert loss.tokens == len(chunk)
    assert loss.values == pytest.approx(expected, abs=1e-4)


def test_a_score_does_not_depend_on_what_is_cached(target):
    prefix, chunk = target.encode(PROMPT + "\n"), target.encode(STEP)
    target.flush_cache()
    cold, first = target.loss(prefix, chunk)
    warm, second = target.loss(prefix, chunk)
    assert first.cached_tokens == 0
    assert second.cached_tokens == len(prefix) - 1
    assert warm.values == pytest.approx(cold.values, abs=1e-5)


def test_verifying_keeps_the_prefix_cache(target):
    prefix, chunk = target.encode(PROMPT + "\n\n"), target.encode(STEP)
    target.flush_cache()
    target.prefill(prefix)
    _, verify = target.loss(prefix, chunk)
    assert verify.cached_tokens == len(prefix) - 1
    assert verify.completion_tokens == 0
    assert target.prefill([*prefix, *chunk, *prefix]).cached_tokens == len(prefix) + len(chunk)


def test_what_was_generated_is_a_cache_hit_to_the_last_token(draft):
    @sgl.function
    def twice(s):
        s += PROMPT
        s += sgl.gen("first", max_tokens=12, ignore_eos=True)
        s += sgl.gen("second", max_tokens=5, ignore_eos=True)

    draft.flush_cache()
    state = twice.run(backend=draft, temperature=1.0)
    first, second = (state.get_meta_info(name) for name in ("first", "second"))
    assert first["call"].completion_tokens == 12
    assert second["call"].prompt_tokens == len(draft.encode(PROMPT)) + 12
    # The last generated token has no key-value entry yet; everything before it has.
    assert second["call"].cached_tokens == second["call"].prompt_tokens - 1
    assert state.text() == PROMPT + state["first"] + state["second"]


def test_a_plain_program_forks_and_selects(target):
    @sgl.function
    def program(s):
        s += PROMPT
        forks = s.fork(3)
        forks += sgl.gen("said", max_tokens=4)
        forks.join()
        s += sgl.select("word", ["\n\n", " Multiply by 2."])

    target.flush_cache()
    state = program.run(backend=target, temperature=0.0)
    assert len(state["said"]) == 3
    assert len(set(state["said"])) == 1
    assert state["word"] in ("\n\n", " Multiply by 2.")


def test_streaming_gives_the_same_text_as_it_grows(target):
    @sgl.function
    def program(s):
        s += PROMPT
        s += sgl.gen("said", max_tokens=12, ignore_eos=True)

    whole = program.run(backend=target, temperature=0.0)["said"]
    state = program.run(backend=target, temperature=0.0, stream=True)
    pieces = list(state.text_iter("said"))
    assert "".join(pieces) == whole
    assert state.get_meta_info("said")["call"].completion_tokens == 12


def test_a_stop_string_stays_in_text_and_ids(target, questions):
    prompt = chat.render(target.tokenizer, questions[0].messages)

    @sgl.function
    def program(s):
        s += prompt
        s += sgl.gen("said", max_tokens=40)

    state = program.run(backend=target, temperature=0.0, stop="\n\n")
    meta = state.get_meta_info("said")
    assert state["said"].endswith("\n\n")
    assert target.tokenizer.decode(meta["output_ids"]) == state["said"]
    assert not meta["ended"]


@pytest.mark.parametrize(("prefix", "chunk"), [([], [5]), ([5], [])])
def test_nothing_to_score_is_an_error_not_a_zero(target, prefix, chunk):
    with pytest.raises(ValueError, match="a loss needs"):
        target.loss(prefix, chunk)


@pytest.mark.parametrize("bad", [-1, 384, 10**9])
def test_an_id_outside_the_vocabulary_is_stopped_before_it_kills_the_server(target, bad):
    with pytest.raises(RuntimeFault, match=f"token id {bad} is outside its vocabulary of 384"):
        target.prefill([5, bad])
    target.prefill([5, 6])


def test_a_prompt_over_the_context_is_refused_with_its_length(target):
    with pytest.raises(RuntimeFault, match=r"target runtime http.*/generate answered 400 \(600 prompt tokens\)"):
        target.prefill([5] * 600)


def test_a_failed_generation_in_a_program_leaves_its_reason(target):
    @sgl.function
    def program(s):
        s += "x " * 700
        s += sgl.gen("said", max_tokens=4)

    state = program.run(backend=target)
    assert isinstance(state.error(), RuntimeFault)


@pytest.mark.parametrize("url", ["localhost:30000", "", "ftp://x"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigError, match="not a URL"):
        Endpoint(url)


def test_nothing_listening_names_the_runtime():
    with pytest.raises(RuntimeFault, match=r"draft runtime http://127\.0\.0\.1:9: .* is the runtime up"):
        Endpoint("http://127.0.0.1:9", "draft")


def test_a_tokenizer_that_cannot_be_read_is_named(runtimes, tmp_path):
    with pytest.raises(ConfigError, match="tokenizer .*nowhere.* cannot be loaded"):
        Endpoint(runtimes["target"].url, tokenizer=str(tmp_path / "nowhere"))


def test_after_abort_every_call_says_so(runtimes):
    with Endpoint(runtimes["target"].url) as endpoint:
        endpoint.abort()
        with pytest.raises(ChainAborted):
            endpoint.prefill([5, 6])


def test_fingerprint_tells_models_and_tokenizers_apart(draft, target, other):
    a, b, c = draft.fingerprint(), target.fingerprint(), other.fingerprint()
    assert len({x["model_sha256"] for x in (a, b, c)}) == 3
    assert a["tokenizer_sha256"] == b["tokenizer_sha256"] != c["tokenizer_sha256"]
    assert a["chat_template_sha256"] == b["chat_template_sha256"] != c["chat_template_sha256"]
    assert draft.context == 512
