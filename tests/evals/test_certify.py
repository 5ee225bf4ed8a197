"""Certification on engines without a model: what is run, what goes on, what is refused, and what it is good for."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from a1_sgl.conformal import Card, questions_needed
from a1_sgl.errors import A1Error, ConfigError, RuntimeFault
from a1_sgl.evals.certify import Certification, certify
from a1_sgl.evals.metrics import summarise
from a1_sgl.evals.report import write
from a1_sgl.evals.runner import Eval, Interrupted, calibrate, evaluate
from a1_sgl.evals.tasks import find_task
from a1_sgl.records import RunFolder
from a1_sgl.types import VerdictEvent

TASK = find_task("chain")
ALPHAS = (0.2, 0.35, 0.5)
EPSILON, DELTA = 0.1, 0.1
NEEDED = questions_needed(EPSILON, DELTA)
FIRST = '{"score": "own_loss", "eta": 0.05, "explore": 5}'


def plan(**changes):
    settings = {
        "task": TASK, "split": "calibration", "program": "a1", "runtime": None, "questions": NEEDED, "chains": 1,
        "sampling": {"temperature": 0.6, "top_p": 1.0}, "alpha": 0.3, "gate_kind": "frozen", "levels": "3:4",
    }  # fmt: skip
    return Eval(**settings | changes)


def what(card, alphas=ALPHAS, epsilon=EPSILON, delta=DELTA, **changes):
    return Certification(plan(card=card, **changes), alphas, epsilon, delta)


def collected(backend, out, **changes):
    return calibrate(plan(gate_kind="marginal", questions=40, **changes), backend, out)[0]


@pytest.fixture(scope="module")
def card(scripted, tmp_path_factory):
    """A card of the pair whose draft is wrong on three questions in ten."""
    return collected(scripted(0.3), tmp_path_factory.mktemp("cal") / "run")


@pytest.fixture(scope="module")
def done(scripted, card, tmp_path_factory):
    """A certification that has ended: its trials, its card and its folder."""
    folder = tmp_path_factory.mktemp("done") / "out"
    return (*certify(what(card), scripted(0.3), folder), folder)


@pytest.fixture
def certified(done):
    return done[1]


def names(folder):
    return sorted(str(path.relative_to(folder).parent) for path in folder.rglob("run.json"))


def test_levels_are_tested_from_the_largest_down_until_one_fails(card, done):
    """Wrong chunks are the strangest 30%: what hands over more than that loses nothing, what hands over less does."""
    trials, certified, out = done
    assert [trial.alpha for trial in trials] == [0.5, 0.35, 0.2]
    assert [trial.certified for trial in trials] == [True, True, False]
    assert [trial.after for trial in trials] == [NEEDED, NEEDED, None]
    assert [trial.lost for trial in trials[:2]] == [0, 0]
    assert trials[2].lost > 0.05 * NEEDED
    folder = f"questions-0-{NEEDED}"
    assert names(out) == [f"{folder}/{one}" for one in ("alpha-0.2", "alpha-0.35", "alpha-0.5", "target")]
    # the card is the same but for its certificate, and none of its questions was asked again
    found = certified.certificate
    assert Card.load(out / "card.json") == certified
    assert replace(certified, certificate=None) == card
    assert found.alphas == (0.5, 0.35)
    assert (found.epsilon, found.delta, found.split, found.seed, found.calibrated) == (0.1, 0.1, "calibration", 0, 40)
    assert len(found.questions) == found.right == NEEDED
    assert not set(found.questions) & set(card.questions)
    assert found.policy["bank"] == card.sha256 == certified.sha256
    for name in ("task", "program", "models", "sampling", "score", "chains", "vote", "gate", "packages"):
        assert name in found.policy
    # every decision was made by the card's bank at the level of its run
    for alpha in ALPHAS:
        events = RunFolder.read(out / folder / f"alpha-{alpha:g}").events
        assert {(e.alpha, e.n) for e in events if isinstance(e, VerdictEvent)} == {(alpha, len(card.scores))}


def test_the_sequence_ends_with_the_first_level_that_fails(scripted, card, tmp_path):
    trials, certified = certify(what(card, (0.05, 0.1, 0.15)), scripted(0.3), tmp_path / "out")
    assert [(trial.alpha, trial.certified) for trial in trials] == [(0.15, False)]
    assert certified is None
    assert not (tmp_path / "out" / "card.json").exists()
    assert not any("alpha-0.1/" in name + "/" for name in names(tmp_path / "out"))


def test_more_questions_go_on_with_those_that_are_new_and_with_levels_that_have_not_passed(scripted, card, tmp_path):
    """Alpha 0.205 loses one question of the first ones, which is too many of so few."""
    out, backend, count = tmp_path / "out", scripted(0.3), NEEDED + 60
    few, more = (what(card, (0.205, 0.5), seed=1, questions=n) for n in (NEEDED, count))
    first, some = certify(few, backend, out)
    assert [(trial.certified, trial.lost) for trial in first] == [(True, 0), (False, 1)]
    calls = len(backend.roles.writer.engine.calls)
    second, all_of_it = certify(more, backend, out)
    both = (f"questions-0-{NEEDED}", f"questions-{NEEDED}-{count}")
    assert names(out) == sorted(
        [f"{both[0]}/{one}" for one in ("target", "alpha-0.5", "alpha-0.205")]
        + [f"{both[1]}/{one}" for one in ("target", "alpha-0.205")]
    )
    assert second[0] == first[0]  # what has passed is asked nothing more
    assert (second[1].lost, second[1].n, second[1].certified) == (3, count, True)
    assert NEEDED < second[1].after < count
    assert some.certificate.alphas == (0.5,)
    assert all_of_it.certificate.alphas == (0.5, 0.205)
    assert all_of_it.certificate.questions == tuple(one.id for one in more.asked)
    assert some.certificate.questions == all_of_it.certificate.questions[:NEEDED]
    draft = backend.roles.writer.engine.calls[calls:]
    assert len({call.prompt for call in draft if call.kind == "generate"}) == 60  # and nobody answered again
    # given again, it says the same and asks nothing
    calls = [len(role.engine.calls) for role in backend.roles.all]
    assert certify(more, backend, out) == (second, all_of_it)
    assert [len(role.engine.calls) for role in backend.roles.all] == calls
    with pytest.raises(ConfigError, match=f"has asked {count} questions, and all of them count"):
        certify(few, backend, out)


def test_an_interruption_loses_nothing(scripted, card, done, tmp_path):
    def stop(recorder, planned):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="are kept in"):
        certify(what(card), scripted(0.3), tmp_path / "out", stop)
    assert not (tmp_path / "out" / "card.json").exists()
    assert certify(what(card), scripted(0.3), tmp_path / "out") == done[:2]


def test_lost_chains_certify_nothing_until_they_are_there(scripted, card, tmp_path):
    broken = scripted(0.3, lambda call: RuntimeFault("out of memory") if call.number == 20 else None)
    with pytest.raises(A1Error, match="1 chains were lost in .*target, so nothing is certified; the same command"):
        certify(what(card), broken, tmp_path / "out")
    assert not (tmp_path / "out" / "card.json").exists()
    trials, certified = certify(what(card), scripted(0.3), tmp_path / "out")
    assert certified.certificate.alphas == (0.5, 0.35)
    assert trials[0].n == NEEDED


def test_an_answer_that_is_not_there_is_no_wrong_answer(scripted, card, done, tmp_path):
    """Of the target it would be to the policy's favour."""
    shutil.copytree(done[2], tmp_path / "out")
    chains = tmp_path / "out" / f"questions-0-{NEEDED}" / "target" / "chains.jsonl"
    first, *rest = chains.read_text().splitlines(keepends=True)
    stopped = json.loads(first) | {"ending": "stopped", "answer": None}
    chains.write_text("".join([json.dumps(stopped) + "\n", *rest]))
    with pytest.raises(A1Error, match="target has questions without a graded chain, so nothing is certified"):
        certify(what(card), scripted(0.3), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "what_differs"),
    [
        ({"epsilon": 0.2}, "epsilon: 0.1 before, 0.2 now"),
        ({"delta": 0.2}, "delta: 0.1 before, 0.2 now"),
        ({"alphas": (0.4, 0.5)}, r"alphas: \[0.5, 0.35, 0.2\] before, \[0.5, 0.4\] now"),
        ({"seed": 1}, "seed: 0 before, 1 now"),
        ({"chains": 2}, "policy.chains: 1 before, 2 now"),
        ({"vote": "weighted"}, 'policy.vote: "majority" before, "weighted" now'),
        ({"split": "train"}, 'split: "calibration" before, "train" now'),
    ],
)
def test_what_is_certified_is_settled_by_the_first_question(scripted, card, done, changes, what_differs):
    before = (done[2] / "certification.json").read_text()
    with pytest.raises(ConfigError, match=f"(?s)something else:\n  {what_differs}.*settled before the first question"):
        certify(what(card, **{"questions": 60} | changes), scripted(0.3), done[2])
    assert (done[2] / "certification.json").read_text() == before


def test_a_folder_of_something_else_and_another_card_are_refused(scripted, card, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"not empty and holds no certification\.json"):
        certify(what(card), scripted(0.3), tmp_path / "full")
    with pytest.raises(ConfigError, match=r"sampling\.temperature: 0\.6 before, 0\.9 now"):
        certify(what(card, sampling={"temperature": 0.9, "top_p": 1.0}), scripted(0.3), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "certification.json").write_text("{")
    with pytest.raises(ConfigError, match="torn/certification.json cannot be read: this is no JSON"):
        certify(what(card), scripted(0.3), tmp_path / "torn")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"questions": NEEDED - 1}, f"{NEEDED - 1} questions cannot certify .* --questions must be at least {NEEDED}"),
        ({"gate_kind": "adaptive-turn"}, "gate adaptive-turn cannot be certified: it learns or adapts"),
        ({"program": "direct", "runtime": "target", "alpha": None}, "program direct has no gate"),
        ({"alarm": "hand-over"}, "alarm hand-over changes the policy"),
        ({"first": "own_loss"}, "first stage own_loss learns in use, so it cannot be certified"),
        ({"alphas": ()}, "no alpha to certify"),
        ({"alphas": (0.5, 1.5)}, "strictly between 0 and 1, not 1.5"),
        ({"epsilon": 0.0}, "epsilon must lie strictly between 0 and 1, not 0"),
        ({"delta": 1.0}, "delta must lie strictly between 0 and 1, not 1"),
    ],
)
def test_what_cannot_be_certified_is_not_offered(card, changes, expected):
    with pytest.raises(ConfigError, match=expected):
        what(card, **changes)


def test_without_answers_and_without_a_target_nothing_is_certified(scripted, card, tmp_path):
    """No question of such a task could be lost, so every level would pass."""
    blank = [one.model_copy(update={"answer": None}) for one in TASK.questions("calibration", 100, 0, "3:4")]
    task = replace(TASK, draw=lambda split, count, *more: blank[:count])
    with pytest.raises(ConfigError, match="task chain has no answers to grade by"):
        certify(what(card, task=task), scripted(0.3), tmp_path / "out")
    with pytest.raises(ConfigError, match="no runtime plays the target"):
        certify(what(card), scripted(0.3).alone("draft"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_as_many_questions_as_suffice_are_the_default(card):
    assert what(card, questions=None).count == NEEDED == len(what(card, questions=None).asked)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"card": None}, "gate frozen has the scores of a card and no others; name one with --calibration"),
        ({"parameters": {"presample": 2}}, "gate frozen never learns, so it takes no scores from presample"),
        ({"alarm": "recalibrate"}, "gate frozen never learns, so it cannot recalibrate; --alarm warn or hand-over"),
        ({"online": True}, "gate frozen never learns"),
    ],
)
def test_a_frozen_gate_is_refused_where_it_would_not_be_one(card, changes, expected):
    with pytest.raises(ConfigError, match=expected):
        plan(**{"card": card} | changes)


def test_a_program_of_ones_own_cannot_teach_a_frozen_gate(card):
    with pytest.raises(ValueError, match="takes no more scores"):
        plan(card=card).gate().calibrate(0.5, question="q")
    with pytest.raises(ValueError, match="takes no more scores"):
        plan(card=card, alarm="warn").gate().calibrate(0.5, question="q")


def test_a_run_that_is_what_was_certified_says_so_in_all_that_is_kept_of_it(scripted, certified, tmp_path):
    run = plan(card=certified, split="test", questions=12, alpha=0.35, certified=True)
    _, summary = evaluate(run, scripted(0.3), tmp_path / "run")
    assert summary["certificate"]["covered"]
    assert summary["certificate"]["says"].startswith("certified: alpha 0.35 loses at most 0.1 of such questions")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["certificate"] == summary["certificate"]
    folder = RunFolder.read(tmp_path / "run")
    assert summarise(folder)["certificate"] == summary["certificate"]
    write(tmp_path / "page" / "report.html", {"run": folder})
    assert ") is certified: alpha 0.35 loses at most" in (tmp_path / "page" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"gate_kind": "balanced"}, "gate is balanced, certified is frozen"),
        ({"alpha": 0.2}, "alpha is 0.2, certified is 0.5, 0.35"),
        ({"chains": 2}, "chains is 2, certified is 1"),
        ({"vote": "weighted"}, "vote is weighted, certified is majority"),
        ({"rate": "own"}, "rate is own, certified is null"),
        ({"alarm": "hand-over"}, "alarm is hand-over, certified is null"),
        ({"first": "own_loss"}, f"first is {FIRST}, certified is null"),
        (
            {"sampling": {"temperature": 0.9, "top_p": 1.0}, "allow_mismatch": ("sampling",)},
            "sampling.temperature is 0.9, certified is 0.6",
        ),
        ({"levels": "3:5", "allow_mismatch": ("levels",)}, "levels is [3, 5], certified is [3, 4]"),
    ],
)
def test_a_run_that_is_not_says_why_or_is_refused(scripted, certified, tmp_path, changes, why):
    settings = {"card": certified, "split": "test", "questions": 4, "alpha": 0.35} | changes
    with pytest.raises(ConfigError) as refused:
        evaluate(plan(**settings, certified=True), scripted(0.3), tmp_path / "run")
    assert str(refused.value).startswith(f"not covered by the card's certificate: {why}; ")
    assert not (tmp_path / "run").exists()
    _, summary = evaluate(plan(**settings), scripted(0.3), tmp_path / "run")
    assert summary["certificate"] == {"covered": False, "says": f"not covered by the card's certificate: {why}"}


def test_a_warning_alarm_changes_nothing_of_it(scripted, certified, tmp_path):
    run = plan(card=certified, split="test", questions=4, alpha=0.5, alarm="warn", certified=True)
    assert evaluate(run, scripted(0.3), tmp_path / "run")[1]["certificate"]["covered"]


def test_questions_of_the_certificate_are_no_test_of_it(scripted, certified, tmp_path):
    task = TASK.only(TASK.sample("calibration", NEEDED, 0, "3:4", but=certified.questions))
    run = plan(card=certified, task=task, questions=None, alpha=0.5)
    _, summary = evaluate(run, scripted(0.3), tmp_path / "run")
    assert f"{NEEDED} of the questions were asked for the certificate" in summary["certificate"]["says"]


def test_another_bank_and_no_certificate_are_not_covered(scripted, certified, tmp_path):
    other = replace(certified, scores=(9.0, *certified.scores[1:]))
    _, summary = evaluate(plan(card=other, split="test", questions=4, alpha=0.5), scripted(0.3), tmp_path / "other")
    assert f"bank is {other.sha256}, certified is {certified.sha256}" in summary["certificate"]["says"]
    bare = plan(card=replace(certified, certificate=None), split="test", questions=4, alpha=0.5)
    assert evaluate(bare, scripted(0.3), tmp_path / "bare")[1]["certificate"] is None
    with pytest.raises(ConfigError, match="--certified needs a card with a certificate"):
        evaluate(replace(bare, certified=True), scripted(0.3), tmp_path / "none")
    # certified later, the same run is covered when it is looked at again
    later = replace(bare, card=certified)
    assert evaluate(later, scripted(0.3), tmp_path / "bare")[1]["certificate"]["covered"]


def test_a_question_is_lost_by_the_vote_that_is_used(scripted, tmp_path):
    """The first chain of every question rates itself highest, and is wrong where the draft is; the others never are."""
    from a1_sgl.voting import VOTES, vote

    @vote("first alone")
    def first(chains):
        return [float(i == 0) for i in range(len(chains))]

    def odd(backend):  # all chains but a question's first are answered rightly
        engine, seen = backend.roles.writer.engine, Counter()
        write_one = engine._texts

        def texts(call):
            seen[call.prompt] += 1
            return write_one(call) if seen[call.prompt] == 1 else right(call)

        right, engine._texts = backend.roles.verifier.engine._texts, texts
        return backend

    try:
        card = collected(odd(scripted(0.5)), tmp_path / "cal", chains=3)
        settled = {"chains": 3, "questions": NEEDED}
        one, _ = certify(what(card, (0.05,), vote="first alone", **settled), odd(scripted(0.5)), tmp_path / "first")
        most, _ = certify(what(card, (0.05,), vote="majority", **settled), odd(scripted(0.5)), tmp_path / "majority")
    finally:
        del VOTES["first alone"]
    assert one[0].lost > NEEDED / 4
    assert most[0].lost == 0
    assert most[0].certified
