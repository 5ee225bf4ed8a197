"""Folders of models without weights."""

import random
import subprocess
import sys

import pytest

from a1_sgl.engine import Codec
from a1_sgl.errors import ConfigError
from a1_sgl.launch.shapes import SHAPES, write


@pytest.mark.parametrize(
    ("name", "billions"), [("qwen2.5-1.5b", 1.54), ("qwen2.5-7b", 7.62), ("qwen2.5-14b", 14.77), ("qwen2.5-32b", 32.76)]
)
def test_shapes_have_as_many_parameters_as_the_models_they_are_of(name, billions):
    assert SHAPES[name].parameters / 1e9 == pytest.approx(billions, abs=0.006)


@pytest.mark.parametrize("name", ["small", "qwen2.5-7b"])
def test_any_id_is_understood(name, tmp_path):
    from transformers import AutoConfig, AutoTokenizer

    folder = write(name, tmp_path / name)
    codec, config = Codec(AutoTokenizer.from_pretrained(folder)), AutoConfig.from_pretrained(folder)
    assert codec.size < config.vocab_size == SHAPES[name].vocabulary
    assert all(codec.decode([one]) for one in (3, 200, 300, config.vocab_size // 2, config.vocab_size - 2))
    assert codec.decode(codec.encode("What is 2 + 2,\n\nnot?")) == "What is 2 + 2,\n\nnot?"
    prompt = codec.encode(codec.render([{"role": "user", "content": "Hello"}]))
    assert (prompt[0], prompt.count(1), prompt.count(2)) == (1, 2, 1)


@pytest.mark.parametrize(("draft", "target"), [("small", "large"), ("qwen2.5-1.5b", "qwen2.5-32b")])
def test_what_one_model_wrote_the_other_reads_as_equally_many_tokens(draft, target, tmp_path):
    from transformers import AutoTokenizer

    writer, reader = (Codec(AutoTokenizer.from_pretrained(write(name, tmp_path / name))) for name in (draft, target))
    rng = random.Random(0)
    for _ in range(50):  # weights that say nothing make every id about equally likely
        ids = [rng.randrange(3, SHAPES[draft].vocabulary - 1) for _ in range(128)]
        assert len(reader.encode(writer.decode(ids), plain=True)) == pytest.approx(len(ids), abs=2)


def test_parameters_are_those_that_transformers_makes(tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(write("large", tmp_path)))
    assert sum(weight.numel() for weight in model.parameters()) == SHAPES["large"].parameters


def test_an_unknown_shape_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown shape 'huge'; known: qwen2\.5-1\.5b"):
        write("huge", tmp_path)
    command = [sys.executable, "-m", "a1_sgl.launch.shapes", "huge", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown shape 'huge'" in done.stderr
