"""Transcripts without a runtime: pieces, encoders, forks."""

from types import SimpleNamespace

from a1_sgl.runtime import Transcript
from a1_sgl.runtime.transcript import Piece


class Characters:
    """One token a character, shifted, so that two of them differ."""

    def __init__(self, shift, key="t"):
        self.shift, self.tokenizer_key, self.key = shift, f"{key}{shift}", f"{key}{shift}/template"

    def encode(self, text):
        return tuple(ord(c) + self.shift for c in text)


A, B = Characters(0), Characters(1000)


def test_known_ids_are_used_and_unknown_ones_encoded_once():
    transcript = Transcript().plus("ab", {A.tokenizer_key: (7,)})
    assert transcript.ids(A) == [7]
    assert transcript.ids(B) == [1097, 1098]
    assert transcript.pieces[0].ids[B.tokenizer_key] == (1097, 1098)


def test_a_prompt_may_differ_between_runtimes_that_share_a_tokenizer():
    one, two = Characters(0), Characters(0)
    one.key, two.key = "template 1", "template 2"
    piece = Piece("prompt", {"template 1": (1,), "template 2": (2,)})
    assert (piece.for_(one), piece.for_(two)) == ((1,), (2,))


def test_text_the_program_added_becomes_a_piece():
    state = SimpleNamespace(text_="abc", variables={})
    Transcript.of(state).save(state)
    state.text_ += "de"
    assert [p.text for p in Transcript.of(state).pieces] == ["abc", "de"]
    assert Transcript.of(state).chars == 5


def test_text_that_was_changed_is_encoded_anew():
    state = SimpleNamespace(text_="abc", variables={})
    Transcript.of(state).save(state)
    state.text_ = "xyz"
    assert Transcript.of(state).ids(A) == [ord(c) for c in "xyz"]


def test_a_fork_grows_without_its_parent():
    parent = SimpleNamespace(text_="abc", variables={})
    Transcript.of(parent).save(parent)
    child = SimpleNamespace(text_="abcd", variables=dict(parent.variables))
    Transcript.of(child).save(child)
    assert Transcript.of(parent).chars == 3
    assert Transcript.of(child).chars == 4
