"""The measurements run, and what the documents say of long chains holds on a smaller stream."""

import subprocess
import sys

import pytest

from a1_sgl.conformal import Decided, Place, Rates, make
from a1_sgl.evals.benchmarks import client
from a1_sgl.evals.benchmarks.streams import Stream


def rates(name, alpha, stream):
    gate = make(name, alpha)
    decided = [
        Decided(Place(q, s, t), score, gate(score, question=q, sample=s, turn=t).take_over) for q, s, t, score in stream
    ]
    return Rates.of(alpha, decided)


def test_a_stream_has_every_chunk_once_and_drifts():
    stream = list(Stream(questions=6, chains=3, turns=10, interleave=2).draw(1))
    assert sorted((q, s, t) for q, s, t, _ in stream) == sorted(
        (f"q{q}", s, t) for q in range(6) for s in range(3) for t in range(10)
    )
    assert stream == list(Stream(questions=6, chains=3, turns=10, interleave=2).draw(1))
    late, early = ([x for _, _, t, x in stream if low <= t < low + 3] for low in (7, 0))
    assert sum(late) / len(late) > sum(early) / len(early) + 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_only_the_recommended_gate_holds_a_small_rate_over_long_chains(seed):
    """Alpha 0.05, 120 turns: scores drift with the turn and differ by question."""
    stream = list(Stream(questions=24, chains=6).draw(seed))
    held = rates("balanced", 0.05, stream)
    assert max(held.deviations("question")) <= 4 / 720  # the cap's promise
    assert abs(held.overall.realised - 0.05) <= 0.005
    inside = [low <= 0.05 <= high for low, high in (rate.interval() for rate in held.by("turn").values())]
    assert sum(inside) / len(inside) >= 0.95
    block = held.by(lambda place: place.turn // 30)
    assert all(low <= 0.05 <= high for low, high in (rate.interval() for rate in block.values()))
    for name in ("marginal", "mondrian-turn", "mondrian-question"):
        assert max(rates(name, 0.05, stream).deviations("question")) > 0.05, name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gate_speed", ["--n", "2000", "--decisions", "200", "--rounds", "2"]),
        ("gate_speed", ["--memory", "--questions", "50"]),
        ("drift", ["--runs", "1", "--questions", "60"]),
        ("drift", ["--runs", "1", "--questions", "60", "--detection"]),
        ("long_chains", ["--questions", "4", "--chains", "2", "--turns", "16"]),
    ],
)
def test_the_measurements_run(name, options):
    # a process of its own: one of them binds itself to a core
    command = [sys.executable, "-m", f"a1_sgl.evals.benchmarks.{name}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "balanced" in done.stdout or name == "drift"


def test_what_a_chain_costs_its_client_is_measured():
    case = client.Case("a1", "in-process", in_flight=8, prompt=100, rounds=2)
    found = client.run(case)
    assert found["chains"] == 16
    assert found["calls"] > 16 * client.TURNS  # a draft and a score each turn, and what was taken over
    assert found["cpu"] > 0
    assert found["threads"] <= 8 + 16


def test_a_runtime_without_a_model_serves_both_clients():
    with client._served("server") as urls:
        found = [client.run(client.Case(one, "server", 4, 100, urls)) for one in ("bare", "a1")]
    assert found[0]["calls"] == 4 * 2 * client.TURNS
    assert found[1]["chains"] == 4
