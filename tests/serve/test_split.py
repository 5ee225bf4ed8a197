"""Where reasoning ends: the same place however the text comes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1_sgl.serve.split import split

BOX = "The answer is \\boxed{60}."


@pytest.mark.parametrize(
    ("mode", "text", "reasoning", "content"),
    [
        ("none", "a\n\nb", "", "a\n\nb"),
        ("open", f"one\n\ntwo\n\n{BOX}", "one\n\ntwo", BOX),
        ("open", f"one\n\n{BOX}\n\nI hope that helps.", "one", f"{BOX}\n\nI hope that helps."),
        ("open", "one\n\n\\fbox{60}\n\ntwo", "one", "\\fbox{60}\n\ntwo"),
        ("open", "Hello!", "", "Hello!"),
        ("open", "one\n\ntwo", "one", "two"),
        ("open", "one\n\ntwo\n\n", "one", "two\n\n"),
        ("think", "<think>\nhm\n\nwell\n</think>\n\nsixty", "hm\n\nwell", "sixty"),
        ("think", "<think></think>sixty", "", "sixty"),
        ("think", "no thought at all", "", "no thought at all"),
        ("think", "<think>hm\n\nit is \\boxed{6}", "hm", "it is \\boxed{6}"),
    ],
)
def test_a_text_is_split(mode, text, reasoning, content):
    found = split(text, mode, over=True)
    assert (found.reasoning, found.content) == (reasoning, content)
    assert text[found.at :] == content


def test_a_prompt_may_have_begun_the_thought():
    assert split("hm</think>six", "think", over=True, thinking=True)[:2] == ("hm", "six")


@pytest.mark.parametrize(("mode", "text"), [("open", "one\n\ntwo and"), ("think", "<think>one\n\ntwo and")])
def test_what_was_cut_off_before_its_answer_is_reasoning(mode, text):
    assert split(text, mode, over=True, cut=True)[:2] == ("one\n\ntwo and", "")


def test_what_was_cut_off_within_its_answer_has_one():
    assert split(f"one\n\n{BOX} So", "open", over=True, cut=True)[:2] == ("one", f"{BOX} So")


PIECES = st.lists(
    st.sampled_from(["a", " ", "\n", "\n\n", "<think>", "</think>", "<thi", "\\boxed{1}", "}", "x. "]), max_size=12
)


@given(PIECES, st.sampled_from(["none", "open", "think"]), st.booleans(), st.booleans())
def test_what_was_shown_is_never_taken_back(pieces, mode, cut, thinking):
    shown = ("", "")
    for end in range(len(pieces) + 1):
        over = end == len(pieces)
        now = split("".join(pieces[:end]), mode, over=over, cut=cut and over, thinking=thinking)[:2]
        assert all(new.startswith(old) for new, old in zip(now, shown, strict=True))
        shown = now
    assert now == split("".join(pieces), mode, over=True, cut=cut, thinking=thinking)[:2]


@given(PIECES, st.booleans())
def test_paragraphs_are_what_lies_between_blank_lines(pieces, over):
    text = "".join(pieces)
    blanks = [found.end() for found in re.finditer(r"\n[ \t]*\n\s*", text) if found.end() < len(text)]
    starts = [0, *blanks]
    paragraphs = zip(starts, [*blanks, len(text)], strict=True)
    boxed = next((start for start, end in paragraphs if "\\boxed{1}" in text[start:end]), None)
    assert split(text, "open", over=over).at == (boxed if boxed is not None else starts[-1] if over else None)


def test_a_long_text_is_split_again_with_every_token():
    """Looking for blank lines from its beginning each time would take a minute here."""
    step = "one step of it\n\n"
    text = step * 80_000
    for end in range(len(text) - 4_000, len(text), 4):
        last = (len(text[:end].rstrip()) - 1) // len(step)  # is held back
        shown = split(text[:end], "open", over=False)
        assert (len(shown.reasoning), shown.content, shown.at) == (last * len(step) - 2, "", None)
