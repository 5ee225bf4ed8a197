"""Whole evals on real runtimes: the end-to-end path, resume after a kill, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from a1_sgl.errors import ConfigError
from a1_sgl.evals.runner import Eval, calibrate, evaluate
from a1_sgl.evals.tasks import find_task
from a1_sgl.records import RunFolder
from a1_sgl.types import CalibrationEvent, VerdictEvent
from a1_sgl.voting import decide

TASK = find_task("chain")


def plan(program="a1", **changes):
    settings = {
        "task": TASK, "split": "test", "program": program, "runtime": None if program == "a1" else "target",
        "questions": 12, "chains": 3, "seed": 5, "parameters": {},
        "sampling": {"temperature": 0.6, "top_p": 1.0}, "alpha": 0.3 if program == "a1" else None,
    }  # fmt: skip
    return Eval(**settings | changes)


def command(runtimes, out, *more):
    return [
        sys.executable, "-m", "a1_sgl.cli", "eval", "--out", str(out), "--draft", runtimes["draft"].url,
        "--target", runtimes["target"].url, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def card(runtimes, tmp_path_factory):
    from a1_sgl.runtime import DraftTarget

    with DraftTarget.connect(runtimes["draft"].url, runtimes["target"].url) as pair:
        made, _ = calibrate(plan(split="calibration", questions=16), pair, tmp_path_factory.mktemp("cal") / "run")
    return made


def test_calibrate_then_eval_end_to_end(pair, card, tmp_path):
    marginal = plan(card=card, gate_kind="marginal")
    folder, summary = evaluate(marginal, pair, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert summary["chains_completed"] == 36
    assert summary["chains_lost"] == 0
    assert summary["errors"] == {}
    assert Counter((c.question, c.sample) for c in folder.chains) == {
        (q.id, s): 1 for q in plan().asked for s in range(3)
    }
    mean = sum(chain.correct for chain in folder.chains) / 36
    assert summary["accuracy"]["mean"] == pytest.approx(mean)
    assert summary["accuracy"]["low"] <= mean <= summary["accuracy"]["high"]
    assert summary["maj_at"]["3"]["mean"] <= summary["pass_at"]["3"]["mean"]
    # the tokens are those of the chains, and the draft wrote most
    assert summary["tokens"]["draft_decode"] == sum(c.decode.get("draft", 0) for c in folder.chains)
    assert summary["tokens"]["target_decode"] == sum(c.decode.get("target", 0) for c in folder.chains)
    assert summary["tokens"]["draft_decode"] > summary["tokens"]["target_decode"] > 0
    assert summary["tokens"]["cached_share"] > 0.85
    # every decision was made by the card's scores and those before it
    verdicts = [e for e in folder.events if isinstance(e, VerdictEvent)]
    assert {e.n for e in verdicts} == set(range(len(card.scores), len(card.scores) + len(verdicts)))
    assert summary["take_over"]["decisions"] == len(verdicts) == sum(c.turns for c in folder.chains)
    assert sum(row["decisions"] for row in summary["take_over"]["by_turn"]) == len(verdicts)
    taken = sum(e.take_over for e in verdicts)
    assert taken == sum(c.take_overs for c in folder.chains)
    # Chunks of a question are alike, so the rate scatters more than a binomial one; this bound is for blunders.
    assert binomtest(taken, len(verdicts), 0.3).pvalue > 1e-9
    # a second call finds nothing to do
    _, same = evaluate(marginal, pair, tmp_path / "run")
    assert same["chains_completed"] == 36
    assert (tmp_path / "run" / "chains.jsonl").read_text().count("\n") == 36


def test_gating_pays(pair, card, tmp_path):
    """With a useful gate A1 is far better than its draft and writes far fewer target tokens than the target alone."""
    options = {"questions": 24, "chains": 2}
    draft = evaluate(plan("direct", runtime="draft", **options), pair.draft, tmp_path / "draft")[1]
    target = evaluate(plan("direct", **options), pair.target, tmp_path / "target")[1]
    both = evaluate(plan(card=card, **options), pair, tmp_path / "a1")[1]
    assert target["accuracy"]["mean"] > 0.85
    assert both["accuracy"]["mean"] > draft["accuracy"]["mean"] + 0.15
    assert both["tokens"]["target_decode"] < 0.6 * target["tokens"]["target_decode"]
    assert draft["tokens"]["target_decode"] == draft["tokens"]["target_prefill"] == 0
    assert draft["take_over"]["nominal"] is draft["take_over"]["realised"] is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_resumes_with_no_chain_lost_or_run_twice(runtimes, tmp_path, number):
    out = tmp_path / "run"
    arguments = command(
        runtimes, out, "--questions", "16", "--chains", "3", "--in-flight", "4", "--quiet", "--gate", "marginal"
    )
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell that runs the tests in the background has Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    chains = out / "chains.jsonl"
    deadline = time.monotonic() + 120
    while not (chains.exists() and chains.read_text().count("\n") >= 5) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    kept = chains.read_text().split("\n")[:-1]
    assert 5 <= len(kept) < 48
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f"{len(kept)} of 48 chains are kept" in said
        assert json.loads((out / "summary.json").read_text())["errors"] == {}
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stderr
    folder = RunFolder.read(out)
    assert Counter((c.question, c.sample) for c in folder.chains).most_common(1)[0][1] == 1
    assert len(folder.chains) == 48
    assert chains.read_text().split("\n")[: len(kept)] == kept
    assert len(folder.run["sessions"]) == 2
    # The resumed gate knows the scores of finished chains, and of those alone.
    resumed = folder.run["sessions"][1]
    verdicts = [e for e in folder.events if isinstance(e, VerdictEvent)]
    before = [e for e in verdicts if e.call.started < resumed]
    after = [e for e in verdicts if e.call.started >= resumed]
    assert {e.n for e in after} == set(range(len(before), len(verdicts)))


def test_another_configuration_is_refused(runtimes, pair, tmp_path):
    evaluate(plan(questions=2, chains=1), pair, tmp_path / "run")
    arguments = command(
        runtimes, tmp_path / "run", "--questions", "2", "--chains", "1", "--seed", "5", "--alpha", "0.4"
    )
    refused = subprocess.run(arguments, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "gate.alpha: 0.3 before, 0.4 now" in refused.stderr
    assert "chains:" not in refused.stderr


def test_a_card_is_refused_for_other_models_settings_or_its_own_questions(pair, mixed, card, tmp_path):
    with pytest.raises(ConfigError, match=r"models\.target\.model_sha256"):
        evaluate(plan(card=card), mixed, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"sampling\.temperature: 0\.6 before, 0\.9 now"):
        evaluate(plan(card=card, sampling={"temperature": 0.9, "top_p": 1.0}), pair, tmp_path / "b")
    with pytest.raises(ConfigError, match="test questions are among the card's"):
        evaluate(plan(card=card, split="calibration"), pair, tmp_path / "c")
    assert not any((tmp_path / name).exists() for name in "abc")


def test_what_may_differ_from_the_card_is_said_explicitly(pair, card, tmp_path):
    warmer = {"sampling": {"temperature": 0.7, "top_p": 1.0}, "questions": 2, "chains": 1, "card": card}
    with pytest.raises(ConfigError, match=r"--allow-mismatch sampling\.temperature"):
        evaluate(plan(**warmer), pair, tmp_path / "a")
    evaluate(plan(**warmer, allow_mismatch=("sampling.temperature",)), pair, tmp_path / "b")
    with pytest.raises(ConfigError, match="no such field"):
        evaluate(plan(**warmer, allow_mismatch=("temprature",)), pair, tmp_path / "c")
    few = replace(card, scores=card.scores[:5], places=card.places[:5])
    with pytest.raises(ConfigError, match="holds 5 scores.* alpha 0.05 needs at least 19"):
        evaluate(plan(card=few, alpha=0.05, questions=2), pair, tmp_path / "d")
    old = replace(card, packages={**card.packages, "torch": "1.0"})
    with pytest.raises(ConfigError, match=r'packages\.torch: "1\.0" before'):
        evaluate(plan(card=old), pair, tmp_path / "e")


def test_a_guarded_run_reports_its_alarms(pair, card, tmp_path):
    """A card of scores far below what is met is a drift; every chunk goes to the target from the alarm on."""
    low = replace(card, scores=tuple(-1.0 - i * 1e-6 for i, _ in enumerate(card.scores)))
    guarded = plan(card=low, alarm="hand-over", alarm_threshold=1.5, questions=24, chains=1, gate_kind="marginal")
    folder, summary = evaluate(guarded, pair, tmp_path / "run")
    assert len(summary["alarms"]) == 1
    assert summary["alarms"][0]["wealth"] >= 1.5
    verdicts = [e for e in folder.events if isinstance(e, VerdictEvent)]
    assert any(e.alpha == 1.0 and e.take_over for e in verdicts)
    calm = evaluate(plan(card=card, alarm="warn", questions=4), pair, tmp_path / "calm")[1]
    assert calm["alarms"] == []


@pytest.mark.parametrize(("kind", "alpha"), [("turn-budget", 1 / 3), ("open-budget", 1 / 3), ("presampled", 0.3)])
def test_every_kind_of_gate_runs(pair, tmp_path, kind, alpha):
    parameters = {"presample": 3} if kind == "presampled" else {}
    few = plan(gate_kind=kind, alpha=alpha, questions=4, parameters=parameters)
    folder, summary = evaluate(few, pair, tmp_path / "run")
    assert summary["chains_completed"] == 12
    handed = Counter((e.question, e.turn) for e in folder.events if isinstance(e, VerdictEvent) and e.take_over)
    if kind == "turn-budget":
        assert max(handed.values()) == 1
    if kind == "presampled":
        assert sum(isinstance(e, CalibrationEvent) for e in folder.events) == 12
        assert {e.n for e in folder.events if isinstance(e, VerdictEvent)} == {3}


def test_a_runtime_that_dies_loses_no_finished_chain(stranger, tmp_path):
    """The runtime goes away in the middle of an eval: what is finished stays, the rest is reported as lost."""
    from a1_sgl.launch.runtimes import Spec, serve
    from a1_sgl.runtime import Endpoint

    with serve([Spec("target", str(stranger))], tmp_path / "logs") as (running,), Endpoint(running.url) as endpoint:
        seen = []

        def progress(recorder, planned):
            if recorder.folder.chains and not seen:
                seen.append(len(recorder.folder.chains))
                os.killpg(running.pid, signal.SIGKILL)

        few = plan("direct", questions=40, chains=2, parameters={"max_tokens": 300})
        endpoint.lanes.limit = 2
        _, summary = evaluate(few, endpoint, tmp_path / "run", progress)
    assert seen
    assert summary["chains_completed"] >= seen[0]
    assert summary["chains_completed"] + summary["chains_lost"] == 80
    assert summary["chains_lost"] > 0
    assert any("is the runtime up" in why for why in summary["errors"])
    assert sum(summary["errors"].values()) == summary["chains_lost"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"alpha": None}, "alpha"),
        ({"program": "beam"}, "unknown program 'beam'; known: direct, self"),
        ({"parameters": {"turn": 3}}, "no parameter 'turn'; it has turns, draft_tokens"),
        ({"questions": 0}, "questions must be at least 1"),
        ({"chains": -1}, "chains must be at least 1"),
        ({"levels": "2:5"}, "operations lie within 3 to 10, not 2:5"),
        ({"levels": "5:4"}, "operations"),
        ({"runtime": "draft"}, "uses both runtimes"),
        ({"gate_kind": "magic"}, "unknown gate 'magic'; known: balanced"),
        ({"gate_kind": "turn-budget", "alpha": 0.3}, "no whole budget; alpha 0.333333 is a budget of 1"),
        ({"parameters": {"score": "luck"}}, "unknown score 'luck'; known: mean_loss"),
        ({"alarm": "panic"}, "unknown alarm 'panic'; known: warn"),
        ({"alarm": "warn", "alarm_threshold": 1.0}, "threshold must be above 1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes, what):
    with pytest.raises(ConfigError, match=what):
        plan(**changes)


@pytest.mark.parametrize(
    ("program", "changes"),
    [
        ("dvts", {"parameters": {"width": 2}, "runtime": None, "chains": 4}),
        ("best_of_n", {"vote": "weighted", "rate": "own"}),
        ("self_consistency", {"parameters": {"stop_when": "decided"}, "chains": 9}),
        ("spec_reason", {"runtime": None, "alpha": 0.4}),
        ("a1_sync", {"runtime": None, "chunking": "line"}),
    ],
)
def test_any_program_under_any_vote_and_chunking(program, changes, pair, tmp_path):
    """The record of a run holds what its program's own vote needs, and the summary is made of it."""
    made = plan(program, **{"questions": 4, **changes})
    folder, summary = evaluate(made, pair if made.runtime is None else pair.target, tmp_path / "run")
    assert summary["chains_completed"] == 4 * made.chains
    assert summary["vote"] == made.voted
    read = RunFolder.read(tmp_path / "run")
    assert read.chains == folder.chains
    chains = sorted(folder.chains, key=lambda c: c.sample)  # among equals the first chain's answer wins
    right = [
        any(c.correct for c in group if c.answer == decide(made.voted, group))
        for group in ([c for c in chains if c.question == q.id and c.ending != "stopped"] for q in made.asked)
    ]
    assert summary["answer_accuracy"]["mean"] == sum(right) / 4
    dropped = sum(summary["tokens"][f"{name}_dropped"] for name in ("draft", "target"))
    assert 0 <= dropped <= summary["tokens"]["draft_decode"] + summary["tokens"]["target_decode"]
    if program == "dvts":
        assert dropped > 0
    if program == "spec_reason":
        assert all(e.p_value is not None for e in folder.events if isinstance(e, VerdictEvent))


def test_a_question_whose_chains_depend_on_each_other_begins_anew(pair, tmp_path):
    made = plan("a1_sync", questions=3, runtime=None)
    evaluate(made, pair, tmp_path / "run")
    lines = (tmp_path / "run" / "chains.jsonl").read_text().splitlines()
    (tmp_path / "run" / "chains.jsonl").write_text("".join(line + "\n" for line in lines[:-1]))  # as if cut off
    broken = json.loads(lines[-1])["question"]
    kept = [line for line in lines if json.loads(line)["question"] != broken]
    folder, summary = evaluate(made, pair, tmp_path / "run")
    assert summary["chains_completed"] == 9
    assert [chain.model_dump_json() for chain in folder.chains[:6]] == kept
    assert [chain.sample for chain in folder.chains[6:]] == [0, 1, 2]
    verdicts = [e for e in folder.events if isinstance(e, VerdictEvent)]
    assert len(verdicts) == sum(chain.turns for chain in folder.chains)


def test_a_programs_own_refusal_ends_the_run_at_once(pair, tmp_path):
    with pytest.raises(ConfigError, match="budget must lie between 0 and samples = 3, not 7"):
        evaluate(plan("a1_sync", runtime=None, parameters={"budget": 7}), pair, tmp_path / "run")
