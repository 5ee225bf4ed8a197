"""A pair is fitted to one record and checked against others; here the records are themselves simulated."""

import random
from dataclasses import replace

import pytest

from a1_sgl.evals.simulate.costs import Curves, Pair, Worker
from a1_sgl.evals.simulate.fit import Check, error, fit, replay
from a1_sgl.evals.simulate.fleet import Arrivals, simulate
from a1_sgl.evals.simulate.load import Chain, Question, Record, Request, Turn, turned

DRAFT = Curves(decode=((1, 0.003), (64, 0.018)), step=0.002, request=0.002, token=3e-5)
TARGET = Curves(decode=((1, 0.0122), (4, 0.0226), (16, 0.0413), (64, 0.132)), step=0.02, request=0.004, token=1e-4)
MEASURED = Pair(draft=Worker(costs=DRAFT), target=Worker(costs=TARGET))
TRUE = Pair(
    draft=Worker(costs=DRAFT, decode_scale=1.2, prefill_scale=0.9),
    target=Worker(costs=TARGET, decode_scale=0.8, prefill_scale=1.1), contention=0.3, network=0.004,
)  # fmt: skip


def recorded(in_flight, alpha=0.25, arm=None, seed=0):
    """A record of what the true pair does."""
    drawn = random.Random(seed)

    def chain():
        turns = [Turn(n, n, 0.0, None) for n in (drawn.randint(30, 70) for _ in range(drawn.randint(3, 8)))]
        if arm is not None:
            return Chain(((Request(arm, 80, 80, sum(turn.drafted for turn in turns)),),))
        taken = {t: drawn.randint(30, 70) for t in range(len(turns)) if drawn.random() < alpha}
        return Chain(turned({"draft": 80, "target": 80}, turns, taken, True))

    roles = ("draft", "target") if arm is None else (arm,)
    prompt = tuple(Request(role, 80, 0) for role in roles)
    questions = tuple(Question(prompt, tuple(chain() for _ in range(4))) for _ in range(24))
    made = simulate(questions, TRUE, Arrivals(in_flight))
    return Record(
        name="made", questions=questions, wall=made.wall, ended=made.ended, latency=made.latency,
        seconds={key: tuple(of) for key, of in made.seconds.items()}, in_flight=in_flight, network=TRUE.network,
        turns=(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted():
    return fit(recorded(32), MEASURED)


def test_a_replay_on_the_true_pair_is_the_record():
    record = recorded(16, alpha=0.4)
    check = Check.of(record, TRUE)
    assert [error(one) for one in (check.wall, check.throughput, check.latency)] == pytest.approx([0, 0, 0])


def test_a_fit_replays_its_own_record(fitted):
    check = Check.of(recorded(32), fitted)
    assert abs(error(check.wall)) < 0.03
    assert all(abs(error(one)) < 0.05 for one in check.requests.values())
    assert fitted.network == TRUE.network


@pytest.mark.parametrize(
    "unseen",
    [{"in_flight": 8}, {"in_flight": 64, "seed": 3}, {"in_flight": 32, "alpha": 0.6}],
    ids=lambda unseen: str(unseen),
)
def test_a_fit_predicts_runs_that_it_has_not_seen(fitted, unseen):
    record = recorded(**unseen)
    check, unfitted = Check.of(record, fitted), Check.of(record, MEASURED)
    assert abs(error(check.wall)) < 0.1
    assert abs(error(check.throughput)) < 0.1
    assert abs(error(check.wall)) < abs(error(unfitted.wall)) + 0.02


def test_what_one_model_alone_takes_leaves_the_other_as_it_was():
    found = fit(recorded(32, arm="target"), MEASURED)
    assert found.draft == MEASURED.draft
    assert found.contention == MEASURED.contention
    assert found.target.decode_scale == pytest.approx(TRUE.target.decode_scale, rel=0.03)


def test_errors_say_on_which_side_they_are():
    record = recorded(16)
    slow = replace(record, wall=2 * record.wall)
    assert error(Check.of(slow, TRUE).wall) == pytest.approx(-0.5)
    assert replay(record, TRUE).wall == pytest.approx(record.wall)
