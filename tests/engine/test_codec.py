"""Text to ids and back, with tokenizers and chat templates unlike the pocket pair's."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1_sgl.engine import Codec
from a1_sgl.errors import ConfigError
from a1_sgl.session import Transcript

WORDS = ("hello", "world", "two", "is", "the", "answer", "▁h", "wor", "ld", "▁▁", "▁a")
SPECIAL = ("<unk>", "<s>", "</s>", "<|turn|>", "<|end|>")
TEXTS = (
    " world", "world", "  two spaces", "naïve café", "日本語", "a 😀😀 b", "\n\nhello\n", "</s> is no end", "x </s>",
    "ends ", "\t", "don't , stop .", "👩‍👩‍👧 e\u0301",
)  # fmt: skip


def sentencepiece(prefix):
    """A tokenizer made like Llama's: pieces of words with their space, and bytes for whatever has none."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = [*map(chr, range(33, 127)), "▁"]
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), *letters))}
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                vocabulary[word[:end]] = len(vocabulary)
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    tokenizer.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({one: i for i, one in enumerate((*SPECIAL, *alphabet))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


MADE = {"Llama": lambda: sentencepiece(True), "Gemma": lambda: sentencepiece(False), "bytes": byte_level}
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
TURNS = "<s>{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
READY = "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{{ m['content'] }}</s>{% endfor %}"
)


@cache
def made(name):
    return Codec(MADE[name]())


@pytest.fixture(params=MADE)
def codec(request):
    yield (found := made(request.param))
    found.tokenizer.chat_template = None


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_within_another_is_itself(text, codec):
    """No space is added or lost, nothing becomes a special token, no character is torn."""
    ids = codec.encode(text, plain=True)
    assert codec.decode(ids) == text
    assert "".join(codec.pieces(ids)) == text
    assert not {*map(SPECIAL.index, SPECIAL)} & {*ids}


def test_a_chain_of_foreign_chunks_is_its_text(codec):
    """Written by another model in pieces that end wherever its tokens did, within a word and beside special tokens."""
    transcript = Transcript().plus("<s>Asked.\n", {codec.key: codec.encode("<s>Asked.\n", first=True)})
    prompt = transcript.tokens(codec)
    for text in TEXTS:
        transcript = transcript.plus(text, {"another's": (1,)})
    assert codec.decode(transcript.ids(codec)[prompt:].tolist()) == "".join(TEXTS)


@pytest.mark.parametrize("name", MADE)
@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\u2581"), min_size=1), min_size=1))
def test_any_chain_is_its_text(name, texts):
    codec = made(name)
    transcript = Transcript().plus("<s>", {codec.key: (1,)})
    for text in texts:
        transcript = transcript.plus(text, {"another's": (1,)})
    assert codec.decode(transcript.ids(codec)[1:].tolist()) == "".join(texts)


def test_names_of_special_tokens_are_these_where_a_program_writes_them(codec):
    assert codec.encode("</s>") == (2,)
    assert codec.decode(codec.encode("is</s>")) == "is"
    chain = Transcript().plus("a", {"another's": (1,)}).caught_up("a</s>")
    assert chain.ids(codec, 1).tolist() == [2]


def test_a_text_of_its_own_begins_as_the_tokenizer_has_it():
    codec = Codec(sentencepiece(True))
    assert codec.encode("hello", first=True) == tuple(codec.tokenizer.encode("hello", add_special_tokens=False))
    assert codec.encode("hello", first=True) != codec.encode("hello")
    assert Transcript().caught_up("hello").ids(codec).tolist() == list(codec.encode("hello", first=True))
    assert Transcript().caught_up("hello").caught_up("hellohello").ids(codec, 1).tolist() == list(codec.encode("hello"))


def test_each_token_has_its_piece_and_a_torn_character_is_the_last_ones(codec):
    ids = codec.encode("is 😀😀x")
    pieces = codec.pieces(ids)
    assert len(pieces) == len(ids)
    assert [one for one in pieces[-9:] if one] == ["😀", "😀", "x"]
    assert codec.pieces(codec.encode("😀")[:-1])[-1].endswith("\ufffd")


@pytest.mark.parametrize(
    ("template", "end"), [(None, "</s>"), (PLAIN, "</s>"), (TURNS + READY, "<|end|>"), (STRICT, "</s>")]
)
def test_a_turn_ends_with_what_the_template_puts_after_it(template, end, codec):
    mine = Codec(codec.tokenizer)
    codec.tokenizer.chat_template = template
    assert mine.eos == SPECIAL.index(end)


def test_a_template_without_system_prompts_has_it_from_the_user():
    codec = Codec(byte_level())
    codec.tokenizer.chat_template = STRICT
    asked = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "Two and two?"}]
    assert codec.render(asked) == "Be exact.\n\nTwo and two?</s>"
    assert codec.after(asked, "Sure?") == "</s>Sure?</s>"
    codec.tokenizer.chat_template = TURNS + READY
    assert "<|turn|>system\nBe exact.<|end|>" in codec.render(asked)


@pytest.mark.parametrize("roles", [["user", "user"], ["system", "system", "user"], ["system", "assistant"]])
def test_what_a_template_refuses_is_told(roles):
    codec = Codec(byte_level())
    codec.tokenizer.chat_template = STRICT
    with pytest.raises(ConfigError, match=rf"refuses messages of {', '.join(roles)}: (System role|Roles must)"):
        codec.render([{"role": role, "content": "x"} for role in roles])


def test_another_kind_of_tokenizer_is_another_tokenizer():
    keys = {Codec(make()).tokenizer_key for make in MADE.values()}
    assert len(keys) == len(MADE)


def test_another_thread_that_encodes_a_prompt_is_not_disturbed(codec):
    """What a setting of the shared tokenizer would do: names of special tokens in its prompt would be letters."""
    codec.encode("</s>", plain=True)
    assert not codec.tokenizer.backend_tokenizer.encode_special_tokens
    assert len(codec.encode("</s>")) == 1
    assert len(codec.encode("</s>", plain=True)) > 1


@pytest.mark.parametrize("template", ["{{ messages[0]['content'] }}<|turn|>", "{{ raise_exception('no answers') }}"])
def test_a_template_that_says_nothing_of_a_turns_end_leaves_it_to_the_tokenizer(template):
    codec = Codec(byte_level())
    codec.tokenizer.chat_template = template
    assert codec.eos == SPECIAL.index("</s>")


def test_a_system_prompt_goes_before_parts_as_it_goes_before_a_text():
    codec = Codec(byte_level())
    codec.tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{% for p in m['content'] %}[{{ p['text'] }}]{% endfor %}{% endfor %}"
    )
    asked = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
    assert codec.render([{"role": "system", "content": "be brief"}, asked]) == "[be brief][one][two]"
