"""SGLang's answers: what is whole is read, what is not is `Unusable`."""

import copy
import json
import math

import pytest

from a1_sgl.engine import answers
from a1_sgl.engine.answers import Unusable

WHOLE = {
    "text": " is 4.",
    "output_ids": [5, 6, 2],
    "meta_info": {
        "finish_reason": {"type": "stop", "matched": 2},
        "prompt_tokens": 9,
        "cached_tokens": 8,
        "completion_tokens": 3,
        "weight_version": "default",
    },
}
MISSING = object()


def whole(**changes):
    """`WHOLE`, with changes to itself or, where the name is there, to ``meta_info``."""
    found = copy.deepcopy(WHOLE)
    for name, value in changes.items():
        part = found if name in ("text", "output_ids", "meta_info") else found["meta_info"]
        if value is MISSING:
            del part[name]
        else:
            part[name] = value
    return json.dumps(found).encode()


def test_a_whole_answer():
    answer = answers.read(whole())
    assert (answer.text, answer.ids, answer.matched) == (" is 4.", [5, 6, 2], 2)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (9, 8, 3)
    assert answer.ended
    assert not answer.aborted
    assert answer.meta["weight_version"] == "default"


@pytest.mark.parametrize(
    ("reason", "matched", "ended"),
    [
        ({"type": "stop", "matched": 2}, 2, True),
        ({"type": "stop", "matched": "\n\n"}, "\n\n", False),
        ({"type": "length", "length": 3}, None, False),
        ({"type": "length", "matched": 2}, None, False),
    ],
)
def test_how_it_ended(reason, matched, ended):
    answer = answers.read(whole(finish_reason=reason))
    assert (answer.matched, answer.ended) == (matched, ended)


@pytest.mark.parametrize("reason", [{"type": "stop"}, {"type": "stop", "matched": None}])
def test_an_end_that_names_no_token_is_an_end(reason):
    assert answers.read(whole(finish_reason=reason)).ended


@pytest.mark.parametrize("ids", [[], None, MISSING])
def test_nothing_generated(ids):
    answer = answers.read(whole(text="", output_ids=ids, completion_tokens=0, finish_reason={"type": "length"}))
    assert (answer.text, answer.ids) == ("", [])


BAD = [
    {name: value}
    for name, values in {
        "text": (MISSING, None, 3, ["a"]),
        "output_ids": (MISSING, None, [], [5, 6], [5] * 4, [5, 6, None], [5, 6, "2"], [5, 6, 2.0], [5, 6, -1], "5"),
        "meta_info": (MISSING, None, [], "meta"),
        "finish_reason": (MISSING, None, "stop", {}, {"type": None}, {"type": 3}, {"type": ["stop"]}, {"type": "odd"}),
        "prompt_tokens": (MISSING, None, -1, 2.5, "9", math.nan, True),
        "cached_tokens": (MISSING, None, -1, math.inf, [8]),
        "completion_tokens": (MISSING, None, -1, 4, "3", math.nan),
    }.items()
    for value in values
]  # fmt: skip


def named(changes):
    return "-".join(f"{name}={'missing' if value is MISSING else value}" for name, value in changes.items())


@pytest.mark.parametrize("changes", BAD, ids=named)
def test_an_answer_that_is_not_whole(changes):
    with pytest.raises(Unusable):
        answers.read(whole(**changes))


@pytest.mark.parametrize(
    "body", [b"", b"null", b"3", b"[]", b'"x"', b"{}", b"<html>", b"\xff\xfe", b"NaN", b"[" * 9999]
)
def test_what_is_no_answer(body):
    with pytest.raises(Unusable):
        answers.read(body)


def test_every_truncation():
    body = whole()
    for end in range(len(body)):
        with pytest.raises(Unusable):
            answers.read(body[:end])


def test_what_is_shown_of_a_long_answer_is_short():
    with pytest.raises(Unusable) as caught:
        answers.read(b"x" * 100_000)
    assert len(str(caught.value)) < 200


# --- aborts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "found",
    [
        {"text": "", "meta_info": {"id": "1", "finish_reason": {"type": "abort", "message": "Abort in waiting queue"}}},
        {"meta_info": {"finish_reason": {"type": "abort", "message": "Abort in waiting queue"}}, "output_ids": None},
    ],
)
def test_aborted_while_it_waited(found):
    answer = answers.read(json.dumps(found).encode())
    assert (answer.aborted, answer.ended, answer.text, answer.ids) == (True, False, "", [])
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (0, 0, 0)
    assert answer.message == "Abort in waiting queue"


def test_aborted_under_way():
    answer = answers.read(whole(finish_reason={"type": "abort", "message": None}, output_ids=[5, 6]))
    assert (answer.aborted, answer.ids, answer.completion_tokens, answer.message) == (True, [5, 6], 3, "aborted")
    assert answers.read(whole(finish_reason={"type": "abort"}, prompt_tokens=None)).prompt_tokens == 0
    with pytest.raises(Unusable):
        answers.read(whole(finish_reason={"type": "abort"}, output_ids="5"))


# --- log-probabilities ----------------------------------------------------------------------------------------


def scores(*values):
    return {"input_token_logprobs": [[None, 3, None], *([value, 4, None] for value in values)]}


def test_scores():
    assert answers.scored(scores(-1.5, 0, 1e-4), 3) == (-1.5, 0.0, 1e-4)


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"input_token_logprobs": None},
        {"input_token_logprobs": "x"},
        {"input_token_logprobs": []},
        {"input_token_logprobs": [[None, 3, None]]},
        {"input_token_logprobs": [[None, 3, None], -1.0, -2.0]},
        {"input_token_logprobs": [[None, 3, None], [], [-2.0, 4, None]]},
        scores(-1.0),
        scores(-1.0, -2.0, -3.0),
        *(scores(-1.0, bad) for bad in (None, math.nan, math.inf, -math.inf, "-1", 0.5, True, False, [-1.0])),
    ],
)
def test_scores_that_are_not_whole(meta):
    with pytest.raises(Unusable, match="log-probabilities of 2 tokens"):
        answers.scored(meta, 2)


def choices(*entries):
    return {"output_token_ids_logprobs": [list(entries)]}


def test_choices_in_their_own_order():
    assert answers.next_token(choices([-1.0, 7, None], [-2.0, 8, None]), [8, 7]) == (-2.0, -1.0)


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"output_token_ids_logprobs": None},
        {"output_token_ids_logprobs": []},
        {"output_token_ids_logprobs": [None]},
        {"output_token_ids_logprobs": [[], []]},
        choices(),
        choices([-1.0, 7, None]),
        choices([-1.0, 7, None], [-1.0]),
        choices([-1.0, 7, None], [-1.0, [8], None]),
        choices([-1.0, 7, None], None),
        *(choices([-1.0, 7, None], [bad, 8, None]) for bad in (None, math.nan, math.inf, "x", 1, True)),
    ],
)
def test_choices_that_are_not_whole(meta):
    with pytest.raises(Unusable, match="token 8"):
        answers.next_token(meta, [8])


def wrote(own, *, top=MISSING, **changes):
    """An answer whose three tokens have these log-probabilities, and the likeliest first ones."""
    answer = answers.read(whole(**changes))
    if isinstance(own, tuple):
        own = [[value, token, None] for value, token in zip(own, (5, 6, 2), strict=False)]
    found = {"output_token_logprobs": own, "output_top_logprobs": top}
    answer.meta.update({name: value for name, value in found.items() if value is not MISSING})
    return answer


def likeliest(*values):
    return [[[value, 4, None] for value in values], [[-1.0, 5, None]], [[-1.0, 6, None]]]


def test_log_probabilities_of_what_was_written():
    assert answers.sampled(wrote((-1.5, 0, 1e-4)), 0) == ((-1.5, 0.0, 1e-4), None)
    assert answers.sampled(wrote((-1.5, -2.0, -3.0), top=likeliest(-0.5, -1.5, None)), 20) == (
        (-1.5, -2.0, -3.0), (-0.5, -1.5),
    )  # fmt: skip
    nothing = answers.read(
        whole(text="", output_ids=[], completion_tokens=0, output_token_logprobs=[], finish_reason={"type": "length"})
    )
    assert answers.sampled(nothing, 20) == ((), None)


@pytest.mark.parametrize(
    "own",
    [
        MISSING, None, "x", [], (-1.0, -2.0), [[-1.0, 5, None]] * 4, [-1.0, -2.0, -3.0],
        *((-1.0, bad, -3.0) for bad in (None, math.nan, math.inf, -math.inf, "-1", 0.5, True)),
    ],
)  # fmt: skip
def test_log_probabilities_that_are_not_whole(own):
    with pytest.raises(Unusable, match="3 tokens generated, and . log-probabilities of them"):
        answers.sampled(wrote(own), 0)


@pytest.mark.parametrize(
    "top", [MISSING, None, [], [None], [[]], likeliest(None), likeliest(math.nan), likeliest(-0.1, -0.1), ["x"]]
)
def test_likeliest_tokens_that_are_none(top):
    answer = wrote((-1.0, -2.0, -3.0), top=top)
    assert answers.sampled(answer, 0) == ((-1.0, -2.0, -3.0), None)
    with pytest.raises(Unusable, match="asked for the 20 likeliest first tokens"):
        answers.sampled(answer, 20)


@pytest.mark.parametrize(
    ("own", "known"), [((-1.0, -2.0, -3.0), (-1.0, -2.0)), ((-1.0, None, -3.0), (-1.0,)), (None, ()), ("x", ())]
)
def test_an_aborted_answer_has_what_there_is(own, known):
    answer = wrote(own, finish_reason={"type": "abort", "message": None})
    short = answers.Answer("", answer.ids[:2], None, True, "", 0, 0, 0, answer.meta)
    assert answers.sampled(short, 20) == (known, None)


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error": {"message": "too\\n  long", "code": 400}}', "too long"),
        (b'{"error": "odd"}', "odd"),
        (b'{"detail": "no"}', "{'detail': 'no'}"),
        (b"Internal\r\nServer Error", "Internal Server Error"),
        (b"", ""),
    ],
)
def test_what_an_error_says(body, told):
    assert answers.said(body) == told


def test_what_an_error_says_is_short():
    for body in (b"x" * 9999, json.dumps({"error": {"message": "x" * 9999}}).encode(), b'["' + b"x" * 9999 + b'"]'):
        assert 0 < len(answers.said(body)) <= 1000


def test_where_the_time_went():
    told = {
        "e2e_latency": 1.5, "queue_time": 0.25, "forward_entry_time": 1_800_000_000.25,
        "prefill_finished_time": 1_800_000_000.75,
    }  # fmt: skip
    assert answers.served(told) == (1.5, 0.25, 0.5)
    # A clock that was set back in between makes no time.
    assert answers.served(told | {"prefill_finished_time": 1_700_000_000.0}).prefill == 0.0


@pytest.mark.parametrize("nothing", [None, "1.5", float("nan"), float("inf"), -1.0, True, []])
def test_a_time_that_is_none_is_not_told(nothing):
    assert answers.served({}) == (None, None, None)
    odd = dict.fromkeys(("e2e_latency", "queue_time", "forward_entry_time", "prefill_finished_time"), nothing)
    assert answers.served(odd) == (None, None, None)
