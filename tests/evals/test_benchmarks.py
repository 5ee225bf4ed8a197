"""The measurements run, and what the documents say of long chains holds on a smaller stream."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from a1_sgl.conformal import Decided, Place, Rates, make
from a1_sgl.evals import exact
from a1_sgl.evals.benchmarks import audited, client, simulated
from a1_sgl.evals.benchmarks import pair as pair_card
from a1_sgl.evals.benchmarks.streams import Stream
from a1_sgl.evals.simulate.costs import Pair
from a1_sgl.evals.speed.rho import Rho
from a1_sgl.evals.tasks import find_task
from a1_sgl.records import RunFolder
from a1_sgl.types import AuditEvent, ChunkEvent, VerdictEvent

from ..process import run
from . import made
from .storytellers import pair


def rates(name, alpha, stream):
    gate = make(name, alpha)
    decided = [
        Decided(Place(q, s, t), score, gate(score, question=q, sample=s, turn=t).take_over) for q, s, t, score in stream
    ]
    return Rates.of(alpha, decided)


def test_steps_are_judged_after_what_then_stood_before_them():
    """A chunk that was replaced stands before none; `wrong` is the second, which the target wrote again."""
    question = find_task("stories").questions("test", 1)[0]
    worked = exact.problem(question)
    one, two, three = worked.lines[:3]
    wrong = two.replace(" has ", " has 1")
    events = []
    for turn, (text, score, over) in enumerate(((one, 0.1, False), (wrong, 2.0, True), (three, 0.2, False))):
        name = {"question": question.id, "sample": 0, "turn": turn}
        written = {"tokens": 3, "ended": False, "calls": ()}
        events.append(ChunkEvent(**name, author="draft", text=text + "\n\n", **written))
        judged = {"p_value": 0.5, "alpha": 0.25, "n": 9, "replaced": over, "call": made.call("target", "verify", 0.0)}
        events.append(VerdictEvent(**name, score=score, tokens=3, take_over=over, **judged))
        if over:
            events.append(ChunkEvent(**name, author="target", text=two + "\n\n", **written))
    folder = SimpleNamespace(questions=lambda: {question.id: question}, events=events)
    assert list(pair_card.judged(folder)) == [(0.1, True), (2.0, False), (0.2, True)]
    assert pair_card.auc([2.0, 0.2], [0.1, 0.2]) == 3.5 / 4


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
        ("audited", ["--runs", "1", "--length", "4"]),
        ("telemetry", ["--pairs", "1", "--in-flight", "8", "--chains", "16"]),
    ],
)
def test_the_measurements_run(name, options):
    # a process of its own: one of them binds itself to a core
    done = run("-m", f"a1_sgl.evals.benchmarks.{name}", *options, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "balanced" in done.stdout or name in ("drift", "audited", "telemetry")


def test_a_program_of_a_benchmark_finds_sglang_without_a_gpu():
    # a real start: where tests start a process quickly, sglang has been imported for it
    code = "import a1_sgl.evals.benchmarks.long_chains, sglang; assert callable(sglang.function)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_audits_hold_what_no_rate_of_take_overs_does():
    """Few chunks are wrong, then many, and then some that scores hardly tell; the frozen threshold is not told that."""
    stream, seed, epsilon = audited.Stream(), 0, 0.03
    chunks = stream.draw(seed)
    gate = make("audited", 0.25, seed=seed, epsilon=epsilon, audit_rate=0.1)
    held = audited.simulate(chunks, audited.asked(gate), gate, 2.0, seed)
    mean, promised, passed, bound = audited.promise(held, epsilon, 0.1)
    assert mean <= promised
    assert passed <= min(bound, 0.04)
    handed = [held.tallies[phase].share("handed") for phase in range(3)]
    assert handed[0] < 0.15 < 0.4 < min(handed[1:])

    def worst(run):
        return max(tally.share("passed") for tally in run.tallies.values())

    rivals = dict(audited.rivals(chunks, stream.card(seed), held.whole.cost, seed))
    assert rivals["oracle"].whole.share("passed") == 0
    for name in ("adaptive-turn", "marginal", "frozen threshold"):
        assert worst(rivals[name]) > 1.2 * worst(held), name


def test_the_pocket_run_of_audits(tmp_path, capsys):
    """On a pair without models, whose draft forgets carries."""
    task = find_task("stories")
    known = audited.phased(replace(task, defaults={**task.defaults, "draft_tokens": 300, "target_tokens": 300}))
    questions = known.questions("test", 8, 0)
    assert [question.meta["phase"] for question in questions] == ["easy"] * 4 + ["hard"] * 4
    shares = [audited.carries(question) for question in questions]
    assert max(shares[:4]) <= 1 / 3 < min(shares[4:]) == 1
    assert len({question.id for question in questions}) == 8
    rows = audited.measured(pair(), tmp_path, (0.05, 0.1), 0.5, "rewrite", 8, 2, 0, known)
    said = capsys.readouterr().out
    assert "audited 0.05: false accepts" in said
    for name in ("adaptive-turn", "marginal", "frozen threshold", "random", "draft alone", "target alone"):
        assert name in said
    folder = RunFolder.read(tmp_path / "audited-0.05")
    decisions = list(audited.judged(folder, questions))
    assert len(decisions) == rows["audited 0.05"].decisions > 40
    by_place = {event.place: event.wrong for event in folder.events if isinstance(event, AuditEvent)}
    # The target is never wrong, so its audits are right wherever the chunk's prefix is.
    assert sum(by_place[v.place] != wrong for v, wrong in decisions if v.audit) <= 2
    assert rows["audited 0.05"].passed == sum(wrong for verdict, wrong in decisions if not verdict.take_over)
    worked = {question.id: exact.problem(question) for question in questions}
    passed = {(verdict.question, verdict.sample) for verdict, wrong in decisions if wrong and not verdict.take_over}
    for chain in folder.chains:  # a solution is right where no wrong chunk was let pass
        assert exact.right(worked[chain.question], "", chain.text) == (chain.name not in passed)
    again = audited.measured(pair(), tmp_path, (0.05, 0.1), 0.5, "rewrite", 8, 2, 0, known)
    assert again == rows  # it goes on with what is there


def test_runs_are_beside_their_simulations(tmp_path, capsys):
    """On a pair without models: how far off they are says nothing, but every run is there."""
    rho = Rho(
        model="m", model_sha256="", machine="", packages={}, prefix=64, decode={1: 1e-3, 64: 1e-4},
        verify={1: {16: 1e-4}, 64: {16: 1e-5}},
    )  # fmt: skip
    for role in ("draft", "target"):
        (tmp_path / f"rho-{role}.json").write_text(rho.model_dump_json())
    with pair() as both:
        for row in simulated.RECIPE:
            simulated.run(row, both, tmp_path, questions=4, chains=4)
    simulated.report(tmp_path)
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "simulated.json").read_text())
    assert [one["run"] for one in found] == [row.name for row in simulated.RECIPE]
    assert all(one["wall_s"][0] > 0 and one["planned_s"] > 0 and one["pace"] == 1 for one in found)
    assert all(row.name in said for row in simulated.RECIPE)
    assert Pair.load(tmp_path / "pair.yaml").target.capacity == simulated._capacity("target")
    (tmp_path / simulated.PACES).write_text(json.dumps({found[0]["run"]: 0.01, found[1]["run"]: 0.02}))
    simulated.report(tmp_path)  # the machine was half as fast around the second run
    slowed = json.loads((tmp_path / "simulated.json").read_text())
    assert [one["pace"] for one in slowed[:3]] == [1, 2, 1]
    assert [one["wall_s"][1] for one in slowed] == [
        pytest.approx(one["wall_s"][1] * two["pace"]) for one, two in zip(found, slowed, strict=True)
    ]
    assert slowed[1]["planned_s"] == pytest.approx(2 * found[1]["planned_s"])


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
