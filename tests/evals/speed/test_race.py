"""A bench on real runtimes: every arm, what is kept of it, and what it refuses."""

import itertools
import json
import math

import pytest

from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.evals.runner import calibrate, evaluate
from a1_sgl.evals.speed.arms import Bench, Fixed
from a1_sgl.evals.speed.race import Ratio, Results, race
from a1_sgl.evals.tasks import find_task
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine
from a1_sgl.types import ChainEvent, ChunkEvent, PromptEvent, VerdictEvent, calls_of

FAULT = RuntimeFault("two fake: broken")


def bench(**changes):
    given = {"task": find_task("chain"), "questions": 3, "chains": 4, "alpha": 0.25, "repeats": 1}
    return Bench(**given | changes)


@pytest.fixture(scope="module")
def raced(runtimes, tmp_path_factory):
    """A whole bench with every arm: results and folder."""
    folder = tmp_path_factory.mktemp("bench")
    with Backend.connect(runtimes["draft"].url, runtimes["target"].url) as pair:
        return race(bench(), pair, folder), folder


def test_every_arm_is_measured(raced):
    results, folder = raced
    assert [run.arm for run in results.runs] == list(bench().order(0))
    for run in results.runs:
        assert run.chains == 12
        assert run.wall_s > 0
        assert 0 <= run.tail_s <= run.wall_s
        assert sum(run.waits_s.values()) > 0
        assert all(0 <= one["share"] <= 1 + 1e-9 for one in run.busy.values())
        assert (run.decisions > 0) == (run.arm not in ("target", "draft"))
        assert (run.waits_s["barrier"] > 0) == (run.arm in ("a1_sync", "reference"))
    assert results.speed_up["target"] == Ratio(mean=1.0, low=None, high=None, rounds=1)
    assert Results.model_validate_json((folder / "results.json").read_bytes()) == results


def test_limits_follow_from_what_each_kind_costs_by_itself(raced):
    results, _ = raced
    costs, run, limit = results.costs, results.median("a1"), results.limits["a1"]
    assert costs["draft"] == results.median("draft").wall_s / results.median("draft").decode["draft"]
    least = max(
        run.decode["draft"] * costs["draft"],
        run.decode["target"] * costs["target"] + run.verified * costs["verify"],
    )
    assert limit.seconds == pytest.approx(least)
    assert limit.efficiency == pytest.approx(least / run.wall_s)
    assert limit.formula is None
    assert results.limits.keys() == {"a1", "a1_lookahead", "a1_sync"}


def test_a_finished_bench_is_not_run_again(raced, pair):
    results, folder = raced
    flushed = []
    pair.flush_cache = lambda: flushed.append(1)
    again = race(bench(), pair, folder)
    assert again.runs == results.runs
    assert len(flushed) == 1  # of what verifying costs by itself, which is measured again
    for change, said in (
        ({"alpha": 0.5}, "another alpha, 0.25 and not 0.5; name another --out"),
        ({"arms": ("target", "a1")}, "another arms"),
        ({"fixed": Fixed(2, 8)}, "another fixed, None and not '2x8'"),
    ):
        with pytest.raises(ConfigError, match=said):
            race(bench(**change), pair, folder)


def test_a_run_that_was_interrupted_begins_anew(pair, tmp_path):
    plan = bench(arms=("a1",), fixed=Fixed(2, 8), paced=True)
    race(plan, pair, tmp_path)
    run = tmp_path / "round-1" / "a1"
    (run / "bench.json").unlink()  # as if it had been stopped before its end
    began = json.loads((run / "run.json").read_text())["sessions"]
    results = race(plan, pair, tmp_path)
    assert len(results.runs) == 1
    assert results.runs[0].chains == 12
    (again,) = json.loads((run / "run.json").read_text())["sessions"]
    assert again > began[0]
    # More rounds may follow.
    more = race(bench(arms=("a1",), fixed=Fixed(2, 8), paced=True, repeats=2), pair, tmp_path)
    assert [one.round for one in more.runs] == [0, 1]
    assert more.runs[0] == results.runs[0]


def test_a_folder_of_something_else_is_left_alone(pair, tmp_path):
    precious = tmp_path / "round-1" / "a1" / "thesis.tex"
    precious.parent.mkdir(parents=True)
    precious.write_text("x")
    with pytest.raises(ConfigError, match="holds something else than a bench; name another --out"):
        race(bench(), pair, tmp_path)
    assert precious.read_text() == "x"


def test_a_run_that_loses_chains_has_no_time(tmp_path):
    first = bench().plan("a1").asked[0].id  # is asked once before, to warm up
    broken = FakeEngine(name="two", faults=lambda call: None if call.request.route.question == first else FAULT)
    backend = Backend(Roles.pair(FakeEngine("1 + 1 = 2\n\n", name="one"), broken))
    with pytest.raises(RuntimeFault, match="lost 8 chains, so its time says nothing .* the same command runs it again"):
        race(bench(arms=("a1",)), backend, tmp_path)


def test_a_card_is_for_the_arms_with_a_gate(pair, tmp_path):
    plan = bench(arms=("a1",), split="calibration").plan("a1")
    card, _ = calibrate(plan, pair, tmp_path / "calibration")
    results = race(bench(arms=("target", "a1", "a1_lookahead", "reference"), card=card), pair, tmp_path / "bench")
    assert len(results.runs) == 4
    assert results.settings["card"] == card.sha256


def test_runtimes_say_where_their_time_went(raced):
    results, _ = raced
    waits = results.median("a1").waits_s
    assert all(waits[cause] > 0 for cause in ("queue", "prefill", "decode", "network", "gate", "client"))


def test_lengths_that_are_fixed(pair, tmp_path):
    plan = bench(arms=("target", "draft", "a1"), fixed=Fixed(4, 8), paced=True, chains=4)
    results = race(plan, pair, tmp_path)
    run = results.median("a1")
    assert results.median("target").decode == {"target": 12 * 32}
    assert run.rate == 0.25
    assert run.decisions == 12 * 4
    assert run.verified == run.decode["draft"] == 12 * 4 * 8
    assert run.decode["target"] == 12 * 8


def test_one_chain_at_a_time_has_the_limit_of_the_formula(runtimes, tmp_path):
    arms = ("target", "draft", "a1", "a1_lookahead")
    plan = bench(arms=arms, fixed=Fixed(3, 8), paced=True, questions=1, in_flight=1)
    with Backend.connect(runtimes["draft"].url, runtimes["target"].url, in_flight=1) as pair:
        results = race(plan, pair, tmp_path)
    limit = results.limits["a1"]
    assert limit.speed_up == pytest.approx(limit.formula)
    assert results.limits["a1_lookahead"].formula > 0
    assert results.median("a1_lookahead").decode["draft"] >= 2 * 3 * 8


# --- the reference loop ---------------------------------------------------------------------------------------


def test_the_reference_runs_a_question_at_a_time_and_says_what_it_did(pair, tmp_path):
    arm = bench(questions=3, chains=3).plan("reference")
    folder, summary = evaluate(arm, pair, tmp_path)
    assert folder.run["configuration"]["program"] == "reference"
    spans = {}
    for chain in folder.finished:
        begin, end = spans.get(chain.question, (math.inf, 0.0))
        spans[chain.question] = min(begin, chain.started), max(end, chain.ended)
    ordered = sorted(spans.values())
    assert len(ordered) == 3
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ordered))
    assert summary["take_over"]["decisions"] == sum(isinstance(one, VerdictEvent) for one in folder.events)
    calls = calls_of(folder.events)
    assert {(one.role, one.kind) for one in calls} >= {("draft", "decode"), ("target", "verify")}
    # It decodes a token with each score, and finds in the cache what it sent before.
    assert all(one.completion_tokens == 1 for one in calls if one.kind == "verify")
    assert summary["tokens"]["cached_share"] > 0.5


def test_its_chains_are_texts_of_its_chunks(pair, tmp_path):
    arm = bench(questions=2, chains=2, take_over="replace").plan("reference")
    folder, _ = evaluate(arm, pair, tmp_path)
    for chain in [one for one in folder.events if isinstance(one, ChainEvent)]:
        own = [
            one
            for one in folder.events
            if getattr(one, "sample", None) == chain.sample and one.question == chain.question
        ]
        written = [one.text for one in own if isinstance(one, ChunkEvent) and one.text]
        kept = []
        for event in own:
            if isinstance(event, ChunkEvent) and event.text:
                kept.append(event.text)
            elif isinstance(event, VerdictEvent) and event.take_over:
                kept.pop()
        assert chain.text == "\n\n".join(kept)
        assert len(written) >= len(kept)
        assert chain.answer is None or f"\\boxed{{{chain.answer}}}" in chain.text
    assert not [one for one in folder.events if isinstance(one, PromptEvent)]


def test_the_reference_takes_no_fleet_and_no_fake(questions, tmp_path):
    roles = Roles.pair(FakeEngine(name="one"), FakeEngine(name="two"))
    arm = bench().plan("reference")
    with pytest.raises(ConfigError, match="one draft runtime over HTTP, and not to one, a FakeEngine; name one URL"):
        arm.run(questions[0], [0], Backend(roles), arm.gate(), lambda event: None)
    with pytest.raises(ConfigError, match="over HTTP"):  # before anything is run
        race(bench(), Backend(roles), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_runtime_that_refuses_the_reference_is_named(runtimes, questions):
    arm = bench(temperature=1e9).plan("reference")
    arm.sampling["top_p"] = 7.0  # which no runtime takes
    with (
        Backend.connect(runtimes["draft"].url, runtimes["target"].url) as pair,
        pytest.raises(RuntimeFault, match=r"draft runtime at http.*/v1/chat/completions: .*400"),
    ):
        arm.run(questions[0], [0], pair, arm.gate(), lambda event: None)


def test_a_chain_of_the_reference_ends_where_the_context_does(runtimes, questions):
    arm, events = bench(fixed=Fixed(4, 100_000), paced=True).plan("reference"), []
    with Backend.connect(runtimes["draft"].url, runtimes["target"].url) as pair:
        arm.run(questions[0], [0], pair, arm.gate(), events.append)
        context = pair.roles.writer.engine.limits.context
    calls = calls_of(events)
    assert calls
    assert all(one.prompt_tokens + one.completion_tokens <= context for one in calls)
    assert isinstance(events[-1], ChainEvent)


# --- what it refuses, and its statistics ------------------------------------------------------------------------


def test_one_runtime_is_no_pair(single, tmp_path):
    with pytest.raises(ConfigError, match="needs a draft and a target"):
        race(bench(), single, tmp_path)


def test_the_places_are_those_of_the_bench(pair, tmp_path):
    with pytest.raises(ConfigError, match="the bench is of 8 in flight, the backend has 64 places"):
        race(bench(in_flight=8), pair, tmp_path)


def test_a_ratio_is_a_geometric_mean_by_round():
    one = Ratio.of([4.0, 9.0], [2.0, 3.0])
    assert one.mean == pytest.approx(6**0.5)
    assert one.low < one.mean < one.high
    assert one.low * one.high == pytest.approx(6.0)
    same = Ratio.of([3.0] * 5, [2.0] * 5)
    assert (same.mean, same.low, same.high) == pytest.approx((1.5, 1.5, 1.5))
    assert same.rounds == 5
    back = Ratio.of([2.0, 3.0], [4.0, 9.0])
    assert back.mean == pytest.approx(1 / one.mean)
