"""Whole evals on real runtimes: the end-to-end path, resume after a kill, refusals."""

import json
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from a1_sgl.answers.graders import GRADERS, exact
from a1_sgl.conformal import BUDGETS
from a1_sgl.engine import Settings
from a1_sgl.errors import ConfigError, RecordFault
from a1_sgl.evals import replay
from a1_sgl.evals.grading_stage import regrade
from a1_sgl.evals.runner import Eval, Interrupted, calibrate, evaluate, resume
from a1_sgl.evals.tasks import find_task
from a1_sgl.records import Recorder, RunFolder
from a1_sgl.session import Backend, Roles
from a1_sgl.types import CalibrationEvent, ChainEvent, ChunkEvent, LostEvent, VerdictEvent
from a1_sgl.voting import decide

from ..process import run, start

TASK = find_task("chain")


def plan(program="a1", **changes):
    settings = {
        "task": TASK, "split": "test", "program": program, "runtime": None if program == "a1" else "target",
        "questions": 12, "chains": 3, "seed": 5, "levels": "3:4", "parameters": {},  # short ones
        "sampling": {"temperature": 0.6, "top_p": 1.0}, "alpha": 0.3 if program == "a1" else None,
    }  # fmt: skip
    return Eval(**settings | changes)


def command(runtimes, out, *more):
    return [
        "-m", "a1_sgl.cli", "eval", "--out", str(out), "--draft", runtimes["draft"].url,
        "--target", runtimes["target"].url, "--levels", "3:4", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def card(runtimes, tmp_path_factory):
    with Backend.connect(runtimes["draft"].url, runtimes["target"].url) as pair:
        made, _ = calibrate(plan(split="calibration", questions=16), pair, tmp_path_factory.mktemp("cal") / "run")
    return made


def few(backend, in_flight):
    """The same runtimes with so many places."""
    return Backend(backend.roles, in_flight=in_flight)


def stop_at(chains):
    """A progress that interrupts the run when so many chains are finished."""

    def progress(recorder, planned):
        if len(recorder.folder.finished) >= chains:
            raise KeyboardInterrupt

    return progress


def names(chains):
    return Counter((chain.question, chain.sample) for chain in chains)


def everyone(made):
    return {(question.id, sample): 1 for question in made.asked for sample in range(made.chains)}


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


def test_gating_pays(pair, tmp_path):
    """With a useful gate A1 is far better than its draft and writes far fewer target tokens than the target alone."""
    options = {"questions": 12, "chains": 2, "levels": None}
    card, _ = calibrate(plan(**options, split="calibration"), pair, tmp_path / "calibration")
    draft = evaluate(plan("direct", runtime="draft", **options), pair.alone("draft"), tmp_path / "draft")[1]
    target = evaluate(plan("direct", **options), pair.alone("target"), tmp_path / "target")[1]
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
        runtimes, out, "--questions", "6", "--chains", "3", "--in-flight", "4", "--quiet", "--gate", "marginal"
    )
    process = start(*arguments, err=tmp_path / "said")
    chains = out / "chains.jsonl"
    deadline = time.monotonic() + 120
    while not (chains.exists() and chains.read_text().count("\n") >= 5) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(60)
    said = (tmp_path / "said").read_text()
    kept = chains.read_text().split("\n")[:-1]
    assert 5 <= len(kept) < 18
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f"{len(kept)} of 18 chains are kept" in said
        assert json.loads((out / "summary.json").read_text())["errors"] == {}
    finished = run(*arguments)
    assert finished.returncode == 0, finished.stderr
    folder = RunFolder.read(out)
    assert Counter((c.question, c.sample) for c in folder.chains).most_common(1)[0][1] == 1
    assert len(folder.chains) == 18
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
    refused = run(*arguments)
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
    n, names = len(card.questions), [f"{i} {name}" for i in range(4) for name in card.questions]
    low = replace(
        card, questions=tuple(names), scores=tuple(-1.0 - i * 1e-6 for i in range(4 * len(card.scores))),
        places=tuple((i * n + question, sample, turn) for i in range(4) for question, sample, turn in card.places),
    )  # fmt: skip
    guarded = plan(card=low, alarm="hand-over", alarm_threshold=1.5, questions=16, chains=1, gate_kind="marginal")
    folder, summary = evaluate(guarded, few(pair, 4), tmp_path / "run")
    assert len(summary["alarms"]) == 1
    assert summary["alarms"][0]["wealth"] >= 1.5
    assert summary["alarms"][0]["question"] in {question.id for question in guarded.asked}
    verdicts = [e for e in folder.events if isinstance(e, VerdictEvent)]
    assert any(e.alpha == 1.0 and e.take_over for e in verdicts)
    calm = evaluate(plan(card=card, alarm="warn", questions=4), pair, tmp_path / "calm")[1]
    assert calm["alarms"] == []


@pytest.mark.parametrize(("kind", "alpha"), [("turn-budget", 1 / 3), ("open-budget", 1 / 3), ("presampled", 0.3)])
def test_every_kind_of_gate_runs(pair, tmp_path, kind, alpha):
    parameters = {"presample": 3} if kind == "presampled" else {}
    made = plan(gate_kind=kind, alpha=alpha, questions=4, parameters=parameters)
    folder, summary = evaluate(made, pair, tmp_path / "run")
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

    with serve([Spec("target", str(stranger))], tmp_path / "logs") as (running,):
        seen = []

        def progress(recorder, planned):
            if recorder.folder.finished and not seen:
                seen.append(len(recorder.folder.finished))
                os.killpg(running.pid, signal.SIGKILL)

        long = plan("direct", questions=16, chains=2, parameters={"max_tokens": 300})
        # Without patience: what it costs is waited for once, and then for each chain anew.
        with Backend.connect(target=running.url, in_flight=8, settings=Settings(patience=0.2)) as backend:
            _, summary = evaluate(long, backend, tmp_path / "run", progress)
    assert seen
    assert summary["chains_completed"] >= seen[0]
    assert summary["chains_completed"] + summary["chains_lost"] == 32
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
        ({"alarm": "warn", "alarm_threshold": 1.0}, "threshold must be above 1, not 1.0"),
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
    folder, summary = evaluate(made, pair if made.runtime is None else pair.alone("target"), tmp_path / "run")
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
    assert [chain.model_dump_json() for chain in folder.finished[:6]] == kept
    assert [chain.sample for chain in folder.finished[6:]] == [0, 1, 2]
    assert names(folder.chains) == everyone(made)
    verdicts = [e for e in folder.events if isinstance(e, VerdictEvent)]
    assert len(verdicts) == sum(chain.turns for chain in folder.chains)


def test_a_programs_own_refusal_ends_the_run_at_once(pair, tmp_path):
    with pytest.raises(ConfigError, match="budget must lie between 0 and samples = 3, not 7"):
        evaluate(plan("a1_sync", runtime=None, parameters={"budget": 7}), pair, tmp_path / "run")


# --- stopping and resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "changes"),
    [
        ("a1", {"gate_kind": "balanced"}),
        ("a1", {"parameters": {"presample": 2}}),
        ("a1_sync", {"runtime": None}),
        ("self_reject", {"alpha": 0.4}),
        # Its chains end together, and progress is told twice a second: four questions could all be done before.
        ("dvts", {"parameters": {"width": 2}, "runtime": None, "chains": 4, "questions": 12}),
    ],
)
def test_an_interrupted_run_goes_on_with_no_chain_lost_or_twice(program, changes, pair, tmp_path):
    """Twice, and then to its end; with so few places that much is under way and much is not begun."""
    made = plan(program, **{"questions": 4} | changes)
    backend = few(pair if made.runtime is None else pair.alone("target"), 4)
    kept = []
    for chains in (2, 6):
        with pytest.raises(Interrupted, match="chains are kept in"):
            evaluate(made, backend, tmp_path / "run", stop_at(chains))
        read = RunFolder.read(tmp_path / "run")
        assert made.strategy.joint or list(names(read.finished))[: len(kept)] == kept
        assert set(names(read.finished).values()) == {1}
        assert chains <= len(read.finished) < made.questions * made.chains
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["errors"] == {}
        kept = list(names(read.finished))
    folder, summary = evaluate(made, backend, tmp_path / "run")
    assert names(folder.finished) == names(folder.chains) == everyone(made)
    assert summary["chains_completed"] == made.questions * made.chains
    assert summary["chains_lost"] == summary["chains_ungraded"] == 0
    assert made.strategy.joint or list(names(folder.finished))[: len(kept)] == kept
    ends = Counter((e.question, e.sample) for e in folder.events if isinstance(e, ChainEvent))
    assert ends == everyone(made)


def test_latency_and_wall_clock_leave_out_the_pause_before_a_resume(pair, tmp_path):
    """As if the first session had been an hour and more before the second."""

    def earlier(value, key=None):
        if isinstance(value, dict):
            return {name: earlier(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [earlier(one, key) for one in value]
        return value - 5000 if key in ("started", "ended", "sessions") and not isinstance(value, bool) else value

    made, out = plan(questions=6, chains=4), tmp_path / "run"
    with pytest.raises(Interrupted):
        evaluate(made, few(pair, 3), out, stop_at(5))
    (out / "run.json").write_text(json.dumps(earlier(json.loads((out / "run.json").read_text()))))
    for name in ("events.jsonl", "chains.jsonl"):
        rows = [json.loads(line) for line in (out / name).read_text().split("\n")[:-1]]
        (out / name).write_text("".join(json.dumps(earlier(row)) + "\n" for row in rows))
    first = {chain.question for chain in RunFolder.read(out).finished}
    folder, summary = evaluate(made, few(pair, 3), out)
    later = {chain.question for chain in folder.finished if chain.started > folder.run["sessions"][1]}
    assert first & later  # a question with chains in both
    for seconds in (*summary["question_s"].values(), *summary["chain_s"].values(), summary["wall_s"]):
        assert 0 < seconds < 2500


@pytest.mark.parametrize(
    ("program", "gates"), [("self_reject", ["balanced", "adaptive-turn"]), ("a1", ["mondrian-question", *BUDGETS])]
)
def test_a_resumed_gate_is_the_one_that_was_not_interrupted(program, gates, pair, tmp_path):
    """Chains run one at a time, so that the record's order is that of the decisions; draws of a turn are told apart."""
    backend = few(pair if program == "a1" else pair.alone("target"), 1)
    for kind in gates:
        made = plan(program, questions=2, chains=2, alpha=0.5, gate_kind=kind, runtime=None)
        gate, attempts = made.gate(), set()
        with RunFolder.open(tmp_path / kind, {}, {}) as folder, Recorder(folder) as recorder:
            folder.ask(made.asked)
            for question in made.asked:
                made.run(question, range(2), backend, gate, recorder)
                run = RunFolder.read(tmp_path / kind)
                resume(again := made.gate(), run, dict.fromkeys((name for name, _ in run.done()), False))
                assert again.state() == gate.state(), kind
            attempts = {event.attempt for event in folder.events if isinstance(event, VerdictEvent)}
        assert program == "a1" or len(attempts) > 1, kind


def test_a_run_with_redraws_is_replayed_as_it_was_decided(pair, tmp_path):
    folder, summary = evaluate(
        plan("self_reject", alpha=0.4, gate_kind="random", questions=6), pair.alone("target"), tmp_path / "run"
    )
    verdicts = [event for event in folder.events if isinstance(event, VerdictEvent)]
    assert {event.attempt for event in verdicts} >= {0, 1, 2}
    assert len({event.place for event in verdicts}) == len(verdicts) == summary["take_over"]["decisions"]
    trace = replay.read([tmp_path / "run"])
    assert trace.chunks == len(verdicts)
    rates = replay.Replay(trace, 4, minimum=1).run("random", 0.4, 5)
    assert {(d.place.question, *d.place[1:3], d.place.attempt): d.take_over for d in rates.decisions} == {
        (e.question, e.sample, e.turn, e.attempt): e.take_over for e in verdicts
    }


# --- questions are begun as places come free ------------------------------------------------------------------


@pytest.mark.parametrize(("questions", "chains"), [(40, 1), (2, 24), (8, 5)])
def test_few_chains_are_begun_however_many_there_are(questions, chains, pair, tmp_path, monkeypatch):
    """Begun: their question is. Under way: they have a text. Neither count grows with what is still to come."""
    from a1_sgl.session import group

    begun, under_way, most = Counter(), Counter(), Counter()

    def told(counter, change):
        counter["now"] += change
        most[id(counter)] = max(most[id(counter)], counter["now"])

    class Watched(Eval):
        def run(self, question, samples, backend, gate, listener):
            def hear(event):
                if isinstance(event, ChainEvent | LostEvent):
                    told(begun, -1)
                    told(under_way, -1)
                listener(event)

            told(begun, len(samples))
            return super().run(question, samples, backend, gate, hear)

    class Counted(group.Branch):
        def __init__(self, *arguments):
            told(under_way, 1)
            super().__init__(*arguments)

    monkeypatch.setattr(group, "Branch", Counted)
    made = plan("direct", questions=questions, chains=chains, parameters={"max_tokens": 6})
    watched = Watched(**{name: getattr(made, name) for name in made.__dataclass_fields__})
    threads = threading.active_count()
    backend = few(pair.alone("target"), 4)
    _, summary = evaluate(watched, backend, tmp_path / "run", lambda *_: told(most, 0))
    assert summary["chains_completed"] == questions * chains
    assert begun["now"] == under_way["now"] == 0
    assert most[id(under_way)] == 4
    assert 4 <= most[id(begun)] <= 8 + (chains if chains > 1 else 0)
    assert threading.active_count() <= threads + 4


def test_a_questions_last_chains_do_not_keep_the_next_one_waiting(pair, tmp_path):
    """A question has more chains than twice the places; the next one begins before it has ended."""
    made = plan("direct", questions=3, chains=10, parameters={"max_tokens": 40}, sampling={"temperature": 1.5})
    folder, _ = evaluate(made, few(pair.alone("target"), 4), tmp_path / "run")
    ends, starts = {}, {}
    for chain in folder.finished:
        ends[chain.question] = max(ends.get(chain.question, 0), chain.ended)
        starts[chain.question] = min(starts.get(chain.question, chain.started), chain.started)
    first, second, third = (question.id for question in made.asked)
    # Where all of a question's last chains end in one moment the next has nothing to begin before.
    assert starts[second] < ends[first] or starts[third] < ends[second]


# --- what fails, and what it takes with it --------------------------------------------------------------------

FAULTY = """
import sglang as sgl
from pathlib import Path
from a1_sgl.errors import ConfigError
from a1_sgl.programs import program
from a1_sgl.session import Group

@program()
@sgl.function
def faulty(s, query, where=""):
    asked = (Path(where) / query.question.id)
    trouble = asked.read_text() if asked.exists() else ""
    if trouble == "prompt":
        raise OSError("no prompt")
    if trouble == "config":
        raise ConfigError("this cannot be")

    def body(chain):
        chain.write(chain.roles.writer, 16)
        if trouble == "all" or (trouble == "one" and chain.sample == 1):
            raise ZeroDivisionError("what a program does")

    with Group(s, query) as group:
        return group.run(body)
"""


@pytest.fixture
def faulty(tmp_path):
    """A plan, and what makes a question of it fail in some way."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    (tmp_path / "trouble").mkdir()
    made = plan(f"{tmp_path / 'faulty.py'}:faulty", parameters={"where": str(tmp_path / "trouble")})

    def trouble(**kinds):
        for path in (tmp_path / "trouble").iterdir():
            path.unlink()
        for kind, number in kinds.items():
            (tmp_path / "trouble" / made.asked[number].id).write_text(kind)

    return made, trouble


def test_a_programs_error_loses_its_chains_and_the_run_goes_on(faulty, pair, tmp_path):
    made, trouble = faulty
    trouble(prompt=0, all=1, one=2)
    told = []

    class Heard(Eval):
        def run(self, question, samples, backend, gate, listener):
            return super().run(question, samples, backend, gate, lambda e: (told.append(e), listener(e)))

    heard = Heard(**{name: getattr(made, name) for name in made.__dataclass_fields__})
    folder, summary = evaluate(heard, pair.alone("target"), tmp_path / "run")
    lost = {(made.asked[0].id, s) for s in range(3)} | {(made.asked[1].id, s) for s in range(3)}
    lost.add((made.asked[2].id, 1))
    assert names(folder.finished) == {name: 1 for name in everyone(made) if name not in lost}
    assert folder.lost().keys() == lost
    assert summary["chains_lost"] == 7
    assert sum(summary["errors"].values()) == 7
    assert {why.partition(":")[0] for why in summary["errors"]} == {"OSError", "ZeroDivisionError"}
    # What was written for chains that were lost was written all the same, and in vain.
    written = [call for e in told if isinstance(e, ChunkEvent) for call in e.calls]
    kept = sum(chain.decode["target"] for chain in folder.finished)
    assert summary["tokens"]["target_decode"] == sum(call.completion_tokens for call in written) > kept
    assert summary["tokens"]["target_dropped"] == summary["tokens"]["target_decode"] - kept
    # The same command runs them again, and no other.
    trouble()
    again, summary = evaluate(made, pair.alone("target"), tmp_path / "run")
    assert names(again.finished) == everyone(made)
    assert again.finished[: len(folder.finished)] == folder.finished
    assert (summary["chains_lost"], summary["errors"]) == (0, {})
    assert summary["tokens"]["target_dropped"] > 0


def test_what_no_question_would_fare_better_with_ends_the_run(faulty, pair, tmp_path):
    """Chains that were finished before it are kept; questions after it are not begun."""
    made, trouble = faulty
    trouble(config=6)
    with pytest.raises(ConfigError, match="this cannot be"):
        evaluate(made, few(pair.alone("target"), 3), tmp_path / "run")
    folder = RunFolder.read(tmp_path / "run")
    assert folder.lost() == {}
    before = {question.id for question in made.asked[:6]}
    assert {chain.question for chain in folder.finished} <= before
    assert len(folder.finished) >= 9
    trouble()
    assert names(evaluate(made, pair.alone("target"), tmp_path / "run")[0].finished) == everyone(made)


def test_a_folder_that_cannot_be_written_any_more_ends_the_run(pair, tmp_path, monkeypatch):
    made, out, wrote = plan(questions=6), tmp_path / "run", []
    append = RunFolder.append

    def full(folder, events, chain=None):
        if chain is not None and len(wrote) >= 5:
            raise RecordFault(f"{out} cannot be written: No space left on device")
        append(folder, events, chain)
        wrote.extend([chain] if chain is not None else [])

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "append", full)
        with pytest.raises(RecordFault, match="No space left"):
            evaluate(made, few(pair, 4), out)
    assert len(RunFolder.read(out).finished) == 5
    assert names(evaluate(made, pair, out)[0].finished) == everyone(made)


def test_a_chain_that_is_late_is_lost_and_says_so(pair, tmp_path):
    backend = Backend(pair.roles, deadline=1e-3)
    _, summary = evaluate(plan(questions=2), backend, tmp_path / "run")
    assert summary["chains_lost"] == 6
    assert all("not finished within 0.001 s" in why for why in summary["errors"])
    assert evaluate(plan(questions=2), pair, tmp_path / "run")[1]["chains_lost"] == 0


# --- grading ------------------------------------------------------------------------------------------------------


def test_a_slow_grader_holds_no_place(pair, tmp_path, monkeypatch):
    """The first comparison lasts until every chain is finished, with one place for them all."""
    release, waited = threading.Event(), []

    def slow(answer, gold, meta):
        waited.append(release.wait(120))
        return exact(answer, gold, meta)

    def progress(recorder, planned):
        if len(recorder.folder.finished) == planned:
            release.set()

    monkeypatch.setitem(GRADERS, "slow", slow)
    made = plan("direct", task=replace(TASK, grader="slow"), questions=4, chains=2)
    folder, summary = evaluate(made, few(pair.alone("target"), 1), tmp_path / "run", progress)
    assert waited
    assert all(waited)
    assert names(folder.chains) == everyone(made)
    assert summary["chains_ungraded"] == 0
    assert summary["accuracy"]["mean"] > 0


def test_a_grader_that_raises_loses_no_chain(pair, tmp_path, monkeypatch):
    def broken(answer, gold, meta):
        raise ZeroDivisionError("one line\nand another")

    made = plan("direct", task=replace(TASK, grader="broken"), questions=4)
    monkeypatch.setitem(GRADERS, "broken", broken)
    folder, summary = evaluate(made, pair.alone("target"), tmp_path / "run")
    assert names(folder.chains) == everyone(made)
    assert summary["chains_lost"] == 0
    answered = [chain for chain in folder.chains if chain.answer is not None]
    assert summary["not_compared"] == {"grading failed: ZeroDivisionError: one line": len(answered)}
    assert summary["accuracy"]["mean"] == 0
    # One that works gives them their grades, without a model.
    monkeypatch.setitem(GRADERS, "broken", exact)
    assert regrade(tmp_path / "run").right > 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["accuracy"]["mean"] > 0


def test_grading_again_gives_the_same_grades(pair, tmp_path):
    folder, summary = evaluate(plan("direct", questions=6), pair.alone("target"), tmp_path / "run")
    found = regrade(tmp_path / "run")
    assert (found.chains, found.right, found.wrong, found.reworded, found.new) == (18, 0, 0, 0, 0)
    again = {(c.question, c.sample): c for c in RunFolder.read(tmp_path / "run").chains}
    assert again == {(c.question, c.sample): c for c in folder.chains}
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary


# --- one writer, and who is counted -------------------------------------------------------------------------------


def test_a_second_eval_on_the_same_folder_is_refused(runtimes, pair, tmp_path):
    out, refused = tmp_path / "run", []

    def progress(recorder, planned):
        if not refused:
            with pytest.raises(ConfigError, match=rf"this process \({os.getpid()}\), elsewhere in it, is writing"):
                evaluate(made, pair, out)
            options = ["--questions", "4", "--chains", "3", "--seed", "5", "--alpha", "0.3", "--quiet"]
            refused.append(run(*command(runtimes, out, *options)))

    made = plan(questions=4)
    folder, _ = evaluate(made, few(pair, 2), out, progress)
    assert refused[0].returncode == 2
    assert f"another process ({os.getpid()} on " in refused[0].stderr
    assert f"is writing to {out}; let it end, or stop it" in refused[0].stderr
    assert refused[0].stderr.count("\n") == 1
    assert names(folder.finished) == everyone(made)
    assert len(folder.run["sessions"]) == 1


def test_every_role_is_counted_by_its_name(runtimes, pair, tmp_path):
    alone = Backend(Roles.alone(pair.roles.named("target").engine, "solver"))
    folder, summary = evaluate(plan("direct", questions=2), alone, tmp_path / "alone")
    assert summary["tokens"]["solver_decode"] == sum(chain.decode["solver"] for chain in folder.chains) > 0
    assert summary["tokens"]["solver_prefill"] > 0
    assert summary["tokens"]["draft_decode"] == summary["tokens"]["target_decode"] == 0
    assert summary["flops"]["all"] == summary["flops"]["solver"] > 0
    urls = {name: runtimes[name].url for name in ("draft", "target")}
    with Backend.connect(**urls, verifier=urls["target"]) as three:
        _, summary = evaluate(plan(questions=3), three, tmp_path / "three")
    tokens = summary["tokens"]
    assert tokens["verifier_prefill"] > 0
    assert tokens["verifier_decode"] == 0
    assert tokens["draft_decode"] > tokens["target_decode"] > 0
    assert {"verifier"} == {call["role"] for call in summary["calls"] if call["kind"] == "verify"}
    run = json.loads((tmp_path / "three" / "run.json").read_text())
    assert set(run["configuration"]["models"]) == {"draft", "target", "verifier"}
