"""Runs with a first stage: what is recorded, resumed, counted and refused; on engines without a model."""

import json
import zlib
from collections import defaultdict
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from a1_sgl.conformal import SCORES, UNSEEN, Card, TwoStage
from a1_sgl.errors import ConfigError
from a1_sgl.evals import replay
from a1_sgl.evals.benchmarks import stages
from a1_sgl.evals.runner import Eval, Interrupted, calibrate, evaluate, resume
from a1_sgl.evals.tasks import find_task
from a1_sgl.records import RunFolder
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine
from a1_sgl.types import VerdictEvent

TASK = find_task("chain")


def loss(text):
    """A loss between 0 and 4 that depends on all of a chain so far."""
    return zlib.crc32(text.encode()) % 1000 / 250


def backend():
    """Writes steps of no use; the draft's evidence is the target's loss, rounded."""
    draft = FakeEngine(
        lambda call: f"{call.request.route.chain} + 1 = 2\n\n", name="one",
        own=lambda call, text: -round(loss(call.prompt + text), 1), first=lambda call: (-0.1 - loss(call.prompt),),
    )  # fmt: skip
    target = FakeEngine("7\n\n", name="two", scores=lambda before, chunk: -loss(before + chunk))
    return Backend(Roles.pair(draft, target), in_flight=8)


def plan(**changes):
    settings = {
        "task": TASK, "split": "test", "program": "a1", "runtime": None, "questions": 12, "chains": 4, "seed": 5,
        "parameters": {"turns": 6}, "sampling": {"temperature": 0.6, "top_p": 1.0}, "alpha": 0.3,
        "gate_kind": "marginal", "first": "own_loss", "eta": 0.1, "explore": 3,
    }  # fmt: skip
    return Eval(**settings | changes)


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    made, _ = calibrate(plan(split="calibration", eta=0.0), backend(), tmp_path_factory.mktemp("cal") / "run")
    path = tmp_path_factory.mktemp("card") / "card.json"
    made.save(path)
    return Card.load(path)


def verdicts(folder):
    return [event for event in folder.events if isinstance(event, VerdictEvent)]


def test_a_card_has_every_score_and_all_evidence(card):
    assert len(card.scores) == len(card.evidence["own_loss"]) == 12 * 4 * 6
    assert min(card.scores) > UNSEEN
    assert all(abs(a - b) <= 0.051 for a, b in zip(card.scores, card.evidence["own_loss"], strict=True))


def test_a_card_needs_a_first_stage_that_only_watches(tmp_path):
    with pytest.raises(ConfigError, match="calibrate with eta 0, not 0.1"):
        calibrate(plan(), backend(), tmp_path / "run")


def test_a_card_is_not_made_of_the_questions_of_tests(tmp_path):
    with pytest.raises(ConfigError, match="split test of task .* has the questions that gates are tested on"):
        calibrate(plan(eta=0.0), backend(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_says_what_was_verified_and_what_that_spared(card, tmp_path):
    folder, summary = evaluate(plan(card=card), backend(), tmp_path / "run")
    found = verdicts(folder)
    unseen = [verdict for verdict in found if verdict.unseen]
    assert len(unseen) > 40
    assert all(verdict.call is None and verdict.score == UNSEEN for verdict in unseen)
    assert summary["take_over"]["verified"] == 1 - len(unseen) / len(found)
    assert 0 < summary["tokens"]["target_spared"] <= sum(verdict.tokens for verdict in unseen)
    stage = summary["first_stage"]
    assert (stage["score"], stage["eta"], stage["explore"]) == ("own_loss", 0.1, 3)
    assert sum(stage[one] for one in ("accepted", "explored", "closed", "doubted")) == len(found)
    assert stage["accepted"] == len(unseen)
    assert stage["found"] <= stage["explored"]
    assert stage["missed_at_most"] >= 0
    assert folder.run["configuration"]["gate"]["first"] == {"score": "own_loss", "eta": 0.1, "explore": 3}
    # The target's calls are those of what it saw.
    scored = [verdict for verdict in found if verdict.call]
    assert len(scored) == len(found) - len(unseen)


def test_without_a_first_stage_everything_is_verified(tmp_path):
    _, summary = evaluate(plan(first=None, questions=2), backend(), tmp_path / "run")
    assert summary["take_over"]["verified"] == 1.0
    assert summary["first_stage"] is None
    assert summary["tokens"]["target_spared"] == 0


def test_a_run_that_was_stopped_goes_on_with_what_it_had_learnt(card, tmp_path):
    def stop(recorder, planned):
        if len(recorder.folder.finished) >= 12:
            raise KeyboardInterrupt

    slow = backend()
    slow.roles.writer.engine._token_delay = 0.002
    with pytest.raises(Interrupted):
        evaluate(plan(card=card), slow, tmp_path / "run", stop)
    folder = RunFolder.read(tmp_path / "run")
    resume(gate := plan(card=card).gate(), folder, {})
    assert isinstance(gate, TwoStage)
    counted = [verdict.screening.outcome for verdict in verdicts(folder)]
    assert gate.accepted == counted.count("accepted") > 0
    assert gate.candidates == len(counted) - counted.count("doubted")
    assert len(gate.bank) == len(card.scores) + len(counted)
    assert sum(a + c for a, _, c, _ in gate.state()["bins"]) == len(card.scores) + len(counted) - gate.accepted
    assert not gate.state()["waiting"]
    folder, summary = evaluate(plan(card=card), backend(), tmp_path / "run")
    assert summary["chains_completed"] == 48
    assert len(verdicts(folder)) == 48 * 6


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"first": "mean_loss"}, "score mean_loss needs more than that"),
        ({"first": "words"}, "unknown score 'words'"),
        ({"eta": 0.3}, "eta must lie in"),
        ({"explore": 1}, "explore is one candidate in so many"),
        ({"alarm": "warn"}, "leave out one of --alarm and --first-stage"),
        ({"parameters": {"score": "own_worst"}}, "score own_worst asks nothing of the target"),
        ({"program": "direct", "runtime": "draft", "alpha": None, "parameters": {}}, "program direct has no gate"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, what):
    with pytest.raises(ConfigError, match=what):
        plan(**changes)


def test_a_run_without_a_first_stage_is_gone_on_with_as_before(tmp_path):
    """A record that was made before there was one says nothing of it."""
    evaluate(plan(first=None, questions=1), backend(), tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    run = json.loads(path.read_text())
    del run["configuration"]["gate"]["first"]
    path.write_text(json.dumps(run))
    evaluate(plan(first=None, questions=1), backend(), tmp_path / "run")


# --- replay and the measurement -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    path = tmp_path_factory.mktemp("watched") / "run"
    evaluate(plan(eta=0.0, questions=20), backend(), path)
    return path


def test_a_replay_reads_the_evidence(watched):
    chunks = [chunk for chain in replay.read([watched]).chains for chunk in chain.chunks]
    assert all(abs(chunk.evidence - chunk.score) <= 0.051 for chunk in chunks)


def test_the_oracle_hands_over_the_highest_scores_of_each_question_and_turn(watched):
    audit = replay.Replay(replay.read([watched])).run("oracle", 0.3, 0)
    cells = defaultdict(list)
    for decided in audit.decisions:
        cells[decided.place.question, decided.place.turn].append(decided)
    assert len(cells) == 20 * 6
    for cell in cells.values():
        assert [d.take_over for d in sorted(cell, key=lambda d: -d.score)] == [True, True, False, False]  # 1.2 of four
    middle = [sorted(d.score for d in cell)[1:3] for cell in cells.values()]
    ties = sum(one == other for one, other in middle)
    assert audit.selectivity() == pytest.approx(1 - ties / 4 / len(cells))  # of two equal ones it takes one


def test_the_measurement_runs_on_a_record(watched, capsys):
    stages.main(trace=watched, runs=1, alpha=0.3, gate="marginal")
    said = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in said.splitlines() if "%" in line]
    assert rows == ["none", "recorded evidence", "a coin, learnt", "a coin, as many", "the target's score"]


def test_the_measurement_refuses_a_record_without_evidence(tmp_path, watched):
    for name, changes in (("none", {"first": None}), ("live", {"eta": 0.2})):
        evaluate(plan(**changes, questions=8), backend(), tmp_path / name)
        with pytest.raises(ConfigError, match="--first-stage SCORE --eta 0"):
            stages.recorded(tmp_path / name)


def test_a_coin_misses_what_evidence_does_not(watched):
    chains = stages.recorded(watched)
    two, coin = (
        stages.drive(
            TwoStage(stages.make("marginal", 0.3), SCORES["own_loss"], eta=0.1), one, lanes=8
        )
        for one in (chains, stages.with_evidence(chains, lambda chunk: loss(repr(chunk))))
    )  # fmt: skip
    assert two.unseen > 0.2 > coin.unseen
    assert not two.broken


def test_the_measurement_runs_on_a_pair(tmp_path, monkeypatch, capsys):
    """All of it, on engines without a model."""

    class Connected:
        @staticmethod
        @contextmanager
        def connect(draft, target):
            yield backend()

    @contextmanager
    def serve(specs, logs):
        yield [SimpleNamespace(url=spec.name) for spec in specs]

    monkeypatch.setattr(stages, "Backend", Connected)
    monkeypatch.setattr(stages, "serve", serve)
    stages.main(pocket_out=tmp_path, questions=2, known=3, chains=2, eta=0.1)
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if "%" in line]
    alone = ["none", *stages.EVIDENCE, "a coin, as many", "own_loss alone"]
    assert rows == [*alone, "none", "own_loss", "a coin, learnt", "a coin, as many", "the target's score"]
