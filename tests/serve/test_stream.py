"""What a reader is shown, by programs of every kind."""

import pytest

from a1_sgl.engine.fake import FakeTokenizer
from a1_sgl.serve.answers import tokens_after
from a1_sgl.testing import FakeEngine
from a1_sgl.types import Chunk

from .conftest import STEPS, steps
from .test_reports import deltas


def said(frames, name):
    return "".join(one["delta"].get(name) or "" for one in deltas(frames))


MODELS = (
    "a1", "a1_lookahead", "target", "draft", "direct", "a1+majority", "a1+weighted", "a1+best", "self_consistency",
    "best_of_n", "beam_search", "dvts", "tree_of_thought", "budget_forcing", "self_reject", "self_reject_fork",
    "a1_sync", "spec_reason", "speculative_thinking", "route",
)  # fmt: skip


def digits(prompt, token):
    """A judge who is sure."""
    return -0.1 if token == "9" else -9.0


@pytest.mark.parametrize("model", MODELS)
def test_every_model_says_the_same_streamed_and_whole(serving, model):
    server = serving(
        target=FakeEngine(steps, name="target", model="t", choices=lambda p, t: -1.0 if t == "9" else -9.0)
    )
    whole = server.post(model=model, temperature=0).json()["choices"][0]
    frames = server.lines(model=model, temperature=0)
    assert frames[-1] == "data: [DONE]"
    assert "\\boxed{60}" in whole["message"]["content"]
    assert said(frames, "content") == whole["message"]["content"]
    assert deltas(frames)[-1]["finish_reason"] == whole["finish_reason"]
    if "+" not in model:
        return
    assert sorted(said(frames, "reasoning_content").splitlines()) == sorted(
        whole["message"]["reasoning_content"].splitlines()
    )


def test_a_vote_is_told_of_while_it_goes_on(serving):
    answers = iter(["\\boxed{1}", "\\boxed{2}", "\\boxed{2}", "\\boxed{2.0}"])
    server = serving(target=FakeEngine(lambda call: next(answers), name="target", model="t"))
    frames = server.lines(model="self_consistency", a1={"chains": 4})
    lines = said(frames, "reasoning_content").splitlines()
    assert sorted(lines[:4]) == [
        "Chain 1 of 4: answer 1.", "Chain 2 of 4: answer 2.", "Chain 3 of 4: answer 2.", "Chain 4 of 4: answer 2.0."
    ]  # fmt: skip
    assert lines[4] == "Vote (majority): 2 75%, 1 25%."
    assert said(frames, "content") == "\\boxed{2}"


def test_the_usage_of_a_vote_counts_the_other_chains_as_reasoning(serving):
    server = serving(target=FakeEngine("\\boxed{12}", name="target", model="t"))
    found = server.post(model="self_consistency", a1={"chains": 4}).json()["usage"]
    assert found["completion_tokens"] == 4 * 11
    assert found["completion_tokens_details"]["reasoning_tokens"] == 3 * 11


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_is_not_shown_nor_a_part_of_it(serving, stream):
    server = serving()
    stop = [STEPS[1][:4] + "nothing", "60\n\nThe answer"]  # across two chunks
    if stream:
        frames = server.lines(stop=stop, a1={"reasoning": "none"})
        assert said(frames, "content") == STEPS[0] + "78 - 18 = "
        assert deltas(frames)[-1]["finish_reason"] == "stop"
    else:
        found = server.post(stop=stop, a1={"reasoning": "none"}).json()["choices"][0]
        assert (found["message"]["content"], found["finish_reason"]) == (STEPS[0] + "78 - 18 = ", "stop")


@pytest.mark.parametrize(
    ("says", "stop", "shown"),
    [("let me think", "Wait, let", "let me think\n\n"), ("so</think>and on", "</think>", "so"),
     ("so</think>and on", "nk>", "so</thi")],
)  # fmt: skip
def test_a_stop_sequence_ends_a_chain_that_its_program_would_make_go_on(serving, says, stop, shown):
    server = serving(target=FakeEngine(says, name="target", model="t"), alone=True)
    (choice,) = server.post(model="budget_forcing", stop=stop, a1={"reasoning": "none"}).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (shown, "stop")


def test_a_model_that_thinks_is_split_at_its_tag(serving, monkeypatch):
    monkeypatch.setattr(FakeTokenizer, "chat_template", "... </think> ...")
    server = serving(target=FakeEngine("<think>\nhm\n\nwell</think>\n\nSixty.", name="target", model="t"))
    found = server.post(model="target").json()
    assert found["choices"][0]["message"]["content"] == "Sixty."
    assert found["choices"][0]["message"]["reasoning_content"] == "hm\n\nwell"
    frames = server.lines(model="target")
    assert (said(frames, "reasoning_content"), said(frames, "content")) == ("hm\n\nwell", "Sixty.")
    assert server.post(model="target", a1={"reasoning": "none"}).json()["choices"][0]["message"]["content"][0] == "<"


def test_completions_are_the_text_as_it_stands(serving):
    server = serving()
    found = server.post("/v1/completions", model="target", prompt="39 ").json()
    assert found["object"] == "text_completion"
    assert found["choices"][0]["text"] == "".join(STEPS)
    assert server.target.calls[0].prompt == "39 "
    frames = server.lines("/v1/completions", model="target", prompt="39 ")
    assert "".join(one["choices"][0]["text"] for one in frames[:-1]) == "".join(STEPS)


def test_tools_are_refused_where_the_template_has_no_place_for_them(serving):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    answer = serving().post(tools=[tool])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
    assert serving().post(tools=[tool], tool_choice="none").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_where_the_template_takes_them(serving, monkeypatch, stream):
    plain = FakeTokenizer.apply_chat_template

    def template(self, messages, tokenize=False, add_generation_prompt=True, tools=()):
        names = " ".join(tool["function"]["name"] for tool in tools)
        return f"tools: {names}\n" + plain(self, messages, tokenize, add_generation_prompt)

    monkeypatch.setattr(FakeTokenizer, "apply_chat_template", template)
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    server = serving(target=FakeEngine(call, name="target", model="t"), tool_parser="qwen25")
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    asked = {"model": "target", "tools": [tool], "a1": {"reasoning": "none"}}
    if stream:
        frames = server.lines(**asked)
        calls = next(one["delta"]["tool_calls"] for one in deltas(frames) if "tool_calls" in one["delta"])
        finish = deltas(frames)[-1]["finish_reason"]
        assert said(frames, "content") == ""
    else:
        (found,) = server.post(**asked).json()["choices"]
        calls, finish = found["message"]["tool_calls"], found["finish_reason"]
        assert found["message"]["content"] is None
    assert finish == "tool_calls"
    assert calls[0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert "tools: add" in server.target.calls[0].prompt
    refused = server.post(model="self_consistency", tools=[tool])
    assert refused.json()["error"]["param"] == "tools"


def test_tokens_are_counted_by_the_runtimes_ids():
    from a1_sgl.engine import Codec

    chunks = [
        Chunk("draft", "abc", tuple(b"abc"), False, 0, tokens=3), Chunk("program", "--", (), False, 1),
        Chunk("target", "defg", tuple(b"defg"), True, 2, tokens=5),
    ]  # fmt: skip
    codecs = dict.fromkeys(("draft", "target"), Codec(FakeTokenizer()))
    assert [tokens_after(chunks, at, codecs) for at in (0, 1, 3, 5, 6, 9)] == [8, 7, 5, 5, 4, 0]
