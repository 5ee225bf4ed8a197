"""What reading costs over writing: measured, kept, and said."""

import pytest

from a1_sgl.engine import wait
from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.evals.speed.rho import Rho, measure, nearest
from a1_sgl.testing import FakeEngine


def rho(verify=0.1, model="big", **changes):
    """A runtime whose decode gets cheaper with the batch and whose verification does not."""
    given = {
        "model": model, "model_sha256": "0" * 16, "machine": "m", "packages": {}, "prefix": 256,
        "decode": {1: 1.0, 16: 0.25, 256: 0.08}, "verify": {b: {64: verify, 512: verify / 2} for b in (1, 16, 256)},
    }  # fmt: skip
    return Rho(**given | changes)


def test_rho_is_verify_over_write_at_the_nearest_that_was_measured():
    found = rho()
    assert found.at(1, 64) == pytest.approx(0.1)
    assert found.at(16, 512) == pytest.approx(0.2)
    assert found.at(10_000, 10) == pytest.approx(0.1 / 0.08)
    assert found.at(60, 180) == found.at(16, 64)  # the nearest by factors
    with pytest.raises(ValueError, match="nothing was measured"):
        nearest({}, 3)


def test_what_it_says_where_it_pays_everywhere():
    said = rho(verify=0.02).says(16, 64, 0.25)
    assert "A1 can pay at alpha 0.25 on big in every batch measured" in said
    assert "rho is 0.08" in said
    assert "at most 1 / (alpha + rho) = 3.0 times" in said
    assert "(1 + alpha) / (alpha + rho) = 3.8 times" in rho(verify=0.02).says(16, 64, 0.25, "continue")


def test_what_it_says_where_it_pays_in_small_batches_only():
    found = rho()
    assert "up to 16 in flight: with 16 in flight" in found.says(16, 64, 0.25)
    assert "can pay at alpha 0.25 on big up to 16 in flight only: with 256 in flight" in found.says(256, 64, 0.25)


def test_what_it_says_where_it_does_not_pay():
    said = rho(verify=2.0).says(64, 64, 0.25)
    assert said.startswith("A1 cannot pay at alpha 0.25 on big: with 16 in flight and chunks of 64 tokens rho is 8.00")


def test_it_says_what_of_a_load_was_not_measured():
    assert "not measured" not in rho().says(200, 64, 0.25)
    said = rho().says(1000, 9, 0.25)
    assert "(not measured: 1000 in flight, where rho is higher and chunks of 9, a token of which costs more)" in said


def test_it_is_kept_and_found(tmp_path):
    assert Rho.find(tmp_path) is None
    rho().save(tmp_path / "state")
    assert Rho.find(tmp_path / "state") == rho()
    (tmp_path / "state" / "rho.json").write_text("{")
    with pytest.raises(ConfigError, match=r"rho\.json cannot be read .* delete it"):
        Rho.find(tmp_path / "state")


def test_a_runtime_is_measured(target):
    found = wait(measure(target, machine="m", packages={}, batches=(1, 2), chunks=(4, 16), seconds=60))
    assert found.model == "target"
    assert found.decode.keys() == found.verify.keys()
    assert all(cost > 0 for cost in found.decode.values())
    assert all(row.keys() == {4, 16} and min(row.values()) > 0 for row in found.verify.values())
    # On a busy machine a step may be lost in noise, and that is said.
    assert len(found.decode) + len(found.left_out) == 2
    assert found.context is not None
    assert found.context >= 0


def test_costs_are_those_of_all_requests_together():
    engine = FakeEngine("x" * 100, delay=lambda call: 0.02 if call.kind == "score" else 0.0, token_delay=0.001)
    found = wait(measure(engine, machine="m", packages={}, batches=(1, 8), chunks=(10,)))
    assert all(row[10] * batch * 10 >= 0.02 for batch, row in found.verify.items())
    scored = [call for call in engine.calls if call.kind == "score"]
    assert len(scored) == 3 * (1 + 8)
    assert len({tuple(call.request.ids[call.start :]) for call in scored}) == len(scored)  # the cache has none of them
    assert {len(call.request.ids) - call.start for call in scored} == {10}


def test_what_context_costs_is_told_from_a_longer_prefix():
    engine = FakeEngine(
        "x" * 100, delay=lambda call: 1.2e-5 * len(call.request.ids) * call.sampling.get("max_new_tokens", 0)
    )
    found = wait(measure(engine, machine="m", packages={}, batches=(1, 2, 64), chunks=(10,)))
    assert 1e-6 < found.context < 1e-3
    asked = {len(call.request.ids) for call in engine.calls if call.kind == "generate"}
    assert asked == {256, 768}
    longest = [call for call in engine.calls if call.kind == "generate" and len(call.request.ids) == 768]
    assert len(longest) == 2 * (1 + 3 * 2)  # the largest batch up to 16, warmed up once


def test_noise_that_hides_a_cost_is_no_cost():
    engine = FakeEngine("x" * 100, delay=lambda call: 0.8 / call.sampling.get("max_new_tokens", 1))
    with pytest.raises(
        RuntimeFault, match="fake: nothing could be measured; 1 in flight: .* cannot be told from noise"
    ):
        wait(measure(engine, machine="m", packages={}, batches=(1,), chunks=(10,)))


def test_what_is_left_out_is_said():
    engine = FakeEngine("x" * 100, context=600, token_delay=0.002)
    found = wait(
        measure(engine, machine="m", packages={}, batches=(1, 4, 16), chunks=(16, 512), running=4, capacity=500)
    )  # fmt: skip
    assert found.left_out == [
        "1 in flight, chunks of 512: more than the runtime holds",
        "4 in flight: more than the runtime holds",
        "16 in flight: the runtime computes 4 at once",
    ]
    assert found.verify.keys() == {1}
    assert found.context is not None
    hurried = wait(measure(engine, machine="m", packages={}, batches=(1, 4), chunks=(16, 32), seconds=0))
    assert hurried.left_out == [
        "1 in flight, chunks of 32: the 0 s were over",
        "4 in flight: the 0 s were over",
        "what context costs: the 0 s were over",
    ]
    assert hurried.context is None
    small = wait(measure(engine, machine="m", packages={}, batches=(1,), chunks=(16,), capacity=300))
    assert small.left_out == ["what context costs: more than the runtime holds"]


def test_a_context_that_is_too_short_is_refused():
    with pytest.raises(ConfigError, match="fake: a context of 12 tokens is too short"):
        wait(measure(FakeEngine(context=12), machine="m", packages={}))
