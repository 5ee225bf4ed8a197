"""Costs of steps: from measurements, from a device's figures, from files."""

import pytest

from a1_sgl.errors import ConfigError
from a1_sgl.evals.simulate.costs import PAIRS, Curves, Pair, Roofline, Worker, find_pair, measured
from a1_sgl.evals.speed.rho import Rho
from a1_sgl.launch.shapes import SHAPES


def rho(step=0.02, request=0.004, token=1e-4, pair=2e-7, prefix=256):
    """What `a1 bench rho` would find on a runtime of just these costs."""

    def seconds(batch, chunk):
        tokens = batch * chunk
        return step * -(-tokens // 8192) + request * batch + token * tokens + pair * tokens * (prefix + chunk / 2)

    return Rho(
        model="m", model_sha256="", machine="", packages={}, prefix=prefix,
        decode={1: 0.012, 4: 0.006, 16: 0.0025, 64: 0.002},
        verify={b: {k: seconds(b, k) / (b * k) for k in (16, 64, 256, 512)} for b in (1, 4, 16, 64)},
    )  # fmt: skip


def test_the_fit_finds_what_prefill_is_made_of():
    costs = Curves.of(rho())
    assert (costs.step, costs.request) == (pytest.approx(0.02), pytest.approx(0.004))
    assert (costs.token, costs.pair) == (pytest.approx(1e-4), pytest.approx(2e-7))


def test_decode_is_as_measured_with_straight_lines_between_and_beyond():
    costs = Curves.of(rho())
    assert [costs.decode_step(b, 0) for b in (1, 4, 16, 64)] == pytest.approx([0.012, 0.024, 0.04, 0.128])
    assert costs.decode_step(40, 0) == pytest.approx((0.04 + 0.128) / 2)
    assert costs.decode_step(112, 0) == pytest.approx(0.128 + (0.128 - 0.04))
    assert Curves(decode=((4, 1.0),)).decode_step(400, 0) == 1.0
    assert Curves(decode=((1, 1.0),), context=0.5).decode_step(1, 10) == 6.0


def test_what_context_costs_is_taken_out_of_a_step_and_put_in_by_the_token():
    costs = Curves.of(rho().model_copy(update={"context": 2e-6}))
    held = 256 + 24  # the prefix, and half of what is written after it
    assert [costs.decode_step(b, b * held) for b in (1, 4, 16, 64)] == pytest.approx([0.012, 0.024, 0.04, 0.128])
    assert costs.decode_step(16, 16 * (held + 1000)) == pytest.approx(0.04 + 16 * 1000 * 2e-6)
    # More than the whole step cannot be context, and what was measured stays so.
    most = Curves.of(rho().model_copy(update={"context": 1.0}))
    assert [most.decode_step(b, b * held) for b in (1, 4, 16, 64)] == pytest.approx([0.012, 0.024, 0.04, 0.128])
    assert min(most.decode_step(b, 0) for b in (1, 4, 16, 64)) > 0


def test_a_roofline_is_the_longer_of_reading_and_computing():
    costs = Roofline(parameters=1e9, weight_bytes=2, kv_bytes=1e5, bandwidth=1e12, flops=1e14, overhead=1e-3)
    reading = 2e9 / 1e12
    assert costs.decode_step(1, 0) == pytest.approx(reading + 1e-3)
    assert costs.decode_step(64, 10_000) == pytest.approx(reading + 1e9 / 1e12 + 1e-3)  # the cache is read as well
    assert costs.decode_step(1000, 0) == pytest.approx(2e9 * 1000 / 1e14 + 1e-3)  # bound by computing
    assert costs.prefill_step(1, 5000, 0.0) == pytest.approx(2e9 * 5000 / 1e14 + 1e-3)
    half = costs.model_copy(update={"devices": 2, "efficiency": 0.5})
    assert half.decode_step(1, 0) == pytest.approx(reading + 1e-3)


@pytest.mark.parametrize("changes", [{"bandwidth": 0}, {"efficiency": 1.5}, {"devices": 0}, {"speed": 1}])
def test_figures_that_cannot_be_are_refused(changes):
    known = {"parameters": 1e9, "kv_bytes": 1e5, "bandwidth": 1e12, "flops": 1e14}
    with pytest.raises(ValueError, match=next(iter(changes))):
        Roofline(**known | changes)


def test_batches_come_ascending():
    with pytest.raises(ValueError, match="ascending"):
        Curves(decode=((4, 1.0), (1, 1.0)))


def test_a_pair_is_what_was_saved(tmp_path):
    pair = Pair(
        draft=Worker(costs=Curves.of(rho()), decode_scale=1.25),
        target=Worker(costs=Roofline(parameters=1e9, kv_bytes=1e5, bandwidth=1e12, flops=1e14), running=7),
        contention=0.5, network=0.01,
    )  # fmt: skip
    pair.save(tmp_path / "new" / "pair.yaml")
    assert Pair.load(tmp_path / "new" / "pair.yaml") == pair


def test_a_pair_may_name_files_of_rho(tmp_path):
    (tmp_path / "rho.json").write_text(rho().model_dump_json())
    costs = "costs: {rho: rho.json}"
    (tmp_path / "pair.yaml").write_text(f"draft: {{{costs}}}\ntarget: {{{costs}, capacity: 5000}}\n")
    pair = Pair.load(tmp_path / "pair.yaml")
    assert pair.target == Worker(costs=Curves.of(rho()), capacity=5000)
    assert measured(tmp_path / "rho.json") == pair.draft.costs


@pytest.mark.parametrize("name", PAIRS)
def test_the_pairs_that_come_with_the_package_are_of_their_shapes(name):
    pair, memory = find_pair(name), 80e9
    draft = next(shape for key, shape in SHAPES.items() if f"-{key}-" in name)
    for worker, shape in ((pair.draft, draft), (pair.target, SHAPES["qwen2.5-32b"])):
        costs, size = worker.costs, shape.hidden // shape.heads
        assert costs.parameters == pytest.approx(shape.parameters, rel=0.01)
        assert costs.kv_bytes == 2 * shape.layers * shape.kv_heads * size * 2
        assert costs.attention == 4 * shape.layers * shape.hidden
        room = 0.88 * memory * costs.devices - costs.parameters * costs.weight_bytes
        assert worker.capacity == pytest.approx(room / costs.kv_bytes, rel=0.01)
        assert worker.devices == costs.devices


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("draft: 5", "not a pair to simulate: draft"),
        ("- 1", "not a pair to simulate"),
        ("draft: {costs: {rho: none.json}}", "none.json is no file of `a1 bench rho`"),
        ("draft: {costs: {kind: curves, decode: []}}", "draft.costs.curves.decode"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_file_that_is_no_pair_is_refused(tmp_path, text, says):
    (tmp_path / "pair.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        Pair.load(tmp_path / "pair.yaml")


def test_a_rho_that_measured_nothing_is_refused(tmp_path):
    empty = rho().model_copy(update={"verify": {}})
    (tmp_path / "rho.json").write_text(empty.model_dump_json())
    with pytest.raises(ConfigError, match="nothing was measured"):
        measured(tmp_path / "rho.json")
