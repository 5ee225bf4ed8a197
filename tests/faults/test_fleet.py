"""Of two real targets one is killed, comes back, or joins: chains lose nothing but what its cache held."""

from contextlib import ExitStack

import pytest

from a1_sgl.evals.benchmarks.fleet import BEHIND, LISTED, Level, Targets, _all_there, join, run
from a1_sgl.launch.gateway import gateway
from a1_sgl.session import Backend

pytestmark = pytest.mark.slow
LEVEL = Level(16, 12)
CONTEXT = 512


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    with Targets(tmp_path_factory.mktemp("runtimes")) as started:
        yield started


@pytest.mark.parametrize("arm", [LISTED, BEHIND["manual"], BEHIND["cache_aware"]])
def test_a_target_that_is_killed_costs_a_prefill_and_is_used_again(arm, targets, tmp_path):
    both = [targets.first, targets.second]
    with ExitStack() as stack:
        urls = both
        if arm != LISTED:
            policy = next(policy for policy, name in BEHIND.items() if name == arm)
            urls = stack.enter_context(gateway(both, tmp_path / "logs", policy=policy)).url
        backend = stack.enter_context(Backend.connect(targets.draft, urls, in_flight=LEVEL.in_flight))

        def ran(event, act=None):
            return run(targets, backend, LEVEL, tmp_path / event, arm, event, act)

        whole, killed = ran("whole"), ran("killed", targets.kill)
        targets.restart()
        _all_there(backend)
        back = ran("back")
    assert [one.lost for one in (whole, killed, back)] == [0, 0, 0]
    if arm != BEHIND["cache_aware"]:  # which keeps to one target where all prompts begin alike
        assert whole.requests[1] > 0
        assert back.requests[1] > 0
    # At most all that was under way is computed once more.
    assert killed.sent - killed.cached <= whole.sent - whole.cached + LEVEL.in_flight * CONTEXT


def test_a_target_that_joins_a_gateway_is_used(targets, tmp_path):
    policy = "manual"  # cache_aware keeps to the target that has the prompts' beginning
    with (
        gateway([targets.first], tmp_path / "logs", policy=policy) as at,
        Backend.connect(targets.draft, at.url, in_flight=LEVEL.in_flight) as backend,
    ):
        found = run(targets, backend, LEVEL, tmp_path / "run", policy, "joined", lambda: join(at.url, targets.second))
    assert found.lost == 0
    assert all(found.requests)
