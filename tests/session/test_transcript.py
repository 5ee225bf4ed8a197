"""Transcripts without a runtime: pieces, encoders, branches."""

import numpy as np

from a1_sgl.session import Transcript
from a1_sgl.session.transcript import Piece


class Characters:
    """One token a character, shifted, so that two of them differ."""

    def __init__(self, shift, key="t"):
        self.shift, self.tokenizer_key, self.key = shift, f"{key}{shift}", f"{key}{shift}/template"

    def encode(self, text, *, first=False, plain=False):
        return tuple(ord(c) + self.shift for c in text)


A, B = Characters(0), Characters(1000)


def test_known_ids_are_used_and_unknown_ones_encoded_once():
    transcript = Transcript().plus("ab", {A.tokenizer_key: (7,)})
    assert transcript.ids(A).tolist() == [7]
    assert transcript.ids(B).tolist() == [1097, 1098]
    assert transcript.pieces[0].known[B.tokenizer_key].tolist() == [1097, 1098]
    assert transcript.pieces[0].ids(B) is transcript.pieces[0].ids(B)


def test_a_prompt_may_differ_between_runtimes_that_share_a_tokenizer():
    one, two = Characters(0), Characters(0)
    one.key, two.key = "template 1", "template 2"
    transcript = Transcript().plus("prompt", {"template 1": (1,), "template 2": (2,)})
    assert (transcript.ids(one).tolist(), transcript.ids(two).tolist()) == ([1], [2])


def test_text_the_program_added_becomes_a_piece():
    transcript = Transcript().caught_up("abc").caught_up("abcde")
    assert [piece.text for piece in transcript.pieces] == ["abc", "de"]
    assert transcript.chars == 5
    assert transcript.text == "abcde"


def test_text_that_is_known_adds_no_piece():
    transcript = Transcript().caught_up("abc")
    assert transcript.caught_up("abc").pieces == transcript.pieces
    assert Transcript().caught_up("").pieces == ()


def test_text_that_was_changed_is_encoded_anew():
    transcript = Transcript().plus("abc", {A.tokenizer_key: (7,)}).caught_up("xyz")
    assert transcript.ids(A).tolist() == [ord(c) for c in "xyz"]


def test_a_branch_grows_without_its_parent_and_shares_what_they_have_in_common():
    parent = Transcript().caught_up("abc")
    child = parent.plus("d")
    assert (parent.chars, child.chars) == (3, 4)
    assert child.pieces[0] is parent.pieces[0]


def test_ids_are_counted_cut_and_begun_anywhere():
    transcript = Transcript((Piece("ab"), Piece("c"), Piece("")))
    assert transcript.tokens(A) == 3
    assert transcript.first(1).ids(A).tolist() == [97, 98]
    assert transcript.ids(A, 1).tolist() == [99]
    assert transcript.first(0).ids(A).dtype == transcript.ids(A).dtype == np.int32
    assert transcript.first(0).tokens(A) == 0
