import itertools
import math
import random
from collections import Counter

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, sem

from a1_sgl.answers import boxes, final_answer
from a1_sgl.conformal import exact_interval, make
from a1_sgl.evals.accounting import call_times, flops, latency, perplexity, tokens
from a1_sgl.evals.environment import packages
from a1_sgl.evals.estimators import maj_at, pass_at, sizes
from a1_sgl.evals.metrics import accuracy, at_k, shown_bound, summarise, take_over, voted
from a1_sgl.records import ChainRecord, Recorder, RunFolder
from a1_sgl.types import Call, ChainEvent, ChunkEvent, DropEvent, Loss, LostEvent, RatingEvent, Usage, VerdictEvent

from .made import CONFIGURATION, asked, call, run, written


def chain(answer, gold="1", sample=0):
    return ChainRecord(
        question="q", sample=sample, gold=gold, answer=answer, correct=answer == gold, ending="answered", turns=1,
        take_overs=0, decode={}, prefill={}, started=0.0, ended=1.0, text="",
    )  # fmt: skip


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (3, 10), (97, 100)])
def test_exact_interval_is_scipys(hits, n):
    reference = binomtest(hits, n).proportion_ci(0.95, "exact")
    assert exact_interval(hits, n) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_exact_interval_refuses_what_is_no_rate():
    for bad in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="not a rate"):
            exact_interval(*bad)


def test_accuracy_is_clustered_by_question():
    apart = accuracy([[True, False]] * 50)  # chains of a question disagree: every chain counts
    together = accuracy([[True, True]] * 25 + [[False, False]] * 25)  # they agree: questions count
    assert apart["mean"] == together["mean"] == 0.5
    assert apart["high"] - apart["low"] < together["high"] - together["low"]
    low, high = exact_interval(25, 50)
    assert (together["low"], together["high"]) == pytest.approx((low, high), abs=0.01)


def test_accuracy_covers_the_truth_as_often_as_it_says():
    rng, covered = random.Random(0), 0
    for _ in range(600):
        shares = [rng.betavariate(4, 1) for _ in range(60)]
        found = accuracy([[rng.random() < p for _ in range(4)] for p in shares])
        covered += found["low"] <= 0.8 <= found["high"]
    assert binomtest(covered, 600, 0.95, alternative="less").pvalue > 0.01


def test_accuracy_at_the_edges():
    assert accuracy([]) == {"mean": None, "se": None, "low": None, "high": None}
    perfect = accuracy([[True] * 4] * 20)
    assert perfect["mean"] == perfect["high"] == 1.0
    assert perfect["low"] == pytest.approx(exact_interval(20, 20)[0])
    assert accuracy([[True]])["low"] > 0


def test_the_clustered_standard_error_is_that_of_the_questions_means():
    rng = random.Random(1)
    groups = [[rng.random() < p for _ in range(rng.randint(2, 5))] for p in (0.1, 0.5, 0.9, 1.0, 0.7, 0.3)]
    shares = [sum(group) / len(group) for group in groups]
    found = accuracy(groups)
    assert found["mean"] == pytest.approx(numpy.mean(shares))
    assert found["se"] == pytest.approx(sem(shares))
    # Against brute force: questions drawn anew, many times.
    draws = numpy.random.default_rng(0).choice(shares, (20_000, len(shares))).mean(1)
    assert found["se"] == pytest.approx(draws.std() * math.sqrt(len(shares) / (len(shares) - 1)), rel=0.02)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["right", "also", "a", "b", "c", None]), min_size=1, max_size=7), st.data())
def test_pass_and_maj_at_k_are_means_over_all_subsets(answers, data):
    """Even where right answers have two keys."""
    k = data.draw(st.integers(1, len(answers)))
    subsets = list(itertools.combinations(answers, k))
    right = [answers.count(answer) for answer in ("right", "also")]
    passed = sum({"right", "also"} & {*subset} != set() for subset in subsets)
    assert pass_at(k, len(answers), sum(right)) == pytest.approx(passed / len(subsets))
    won = 0.0
    for subset in subsets:
        votes = Counter(answer for answer in subset if answer)
        leaders = [answer for answer, count in votes.items() if count == max(votes.values())]
        won += len({"right", "also"} & {*leaders}) / max(1, len(leaders))
    wrong = [answers.count(answer) for answer in "abc" if answer in answers]
    assert maj_at(k, right, wrong, answers.count(None)) == pytest.approx(won / len(subsets))


def test_k_is_checked():
    for bad in ((0, 4, 1), (5, 4, 1), (1, 4, 5)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at(*bad)
    with pytest.raises(ValueError, match="maj@"):
        maj_at(3, [1], [1])
    assert sizes(1) == [1]
    assert sizes(8) == [1, 2, 4, 8]
    assert sizes(12) == [1, 2, 4, 8, 12]


def test_votes_count_equal_answers_together_however_they_are_written():
    half = [
        chain("1/2", gold="3", sample=0).model_copy(update={"key": "1/2"}),
        chain("0.5", gold="3", sample=1).model_copy(update={"key": "1/2"}),
    ]
    found = at_k([[*half, chain("3", gold="3", sample=2)]], 3)
    assert found["maj_at"]["3"]["mean"] == 0
    assert found["pass_at"]["3"]["mean"] == 1
    assert at_k([[chain("1"), chain(None)]], 2)["maj_at"]["2"]["mean"] == 1
    assert at_k([[chain(None)]], 1)["maj_at"]["1"]["mean"] == 0


def test_maj_at_all_chains_is_the_vote_itself_but_for_ties():
    """Right answers of two keys do not add up, and one key with right and wrong ones goes by what most wrote."""

    def group(gold, *answers):
        return [
            chain(answer, gold=gold, sample=i).model_copy(update={"key": key, "correct": right})
            for i, (answer, key, right) in enumerate(answers)
        ]

    halves = group("0.5", ("50\\%", "50", True), ("7", "7", False), ("0.5", "1/2", True), ("7", "7", False))
    lengths = group("5 cm", ("5 m", "5", False), ("5 cm", "5", True), ("x", "x", False), ("5 cm", "5", True))
    assert not voted("majority", halves)
    assert voted("majority", lengths)
    found = at_k([halves, lengths], 4)
    assert found["maj_at"]["4"]["mean"] == 0.5
    assert at_k([halves], 4)["maj_at"]["4"]["mean"] == 0
    assert at_k([halves], 4)["maj_at"]["1"]["mean"] == 0.5


def test_flops_are_two_a_parameter_and_token():
    usage = Usage(decode=Counter(draft=10, target=1), prefill=Counter(draft=5, target=100), prompt=0, cached=0)
    assert flops(usage, {"draft": 1000, "target": 10_000}) == {"draft": 3e4, "target": 2.02e6, "all": 2.05e6}
    assert flops(usage, {"draft": 1000}) == {"draft": 3e4, "target": None, "all": None}


def test_latency_is_from_the_first_chains_begin_to_the_last_ones_end():
    chains = [
        chain("1", sample=i).model_copy(update={"question": str(i // 2), "started": i, "ended": i + 1 + i // 2})
        for i in range(4)
    ]
    assert latency(chains) == {"median": 2.5, "p95": pytest.approx(2.95)}
    assert latency([]) is None


def test_latency_leaves_out_the_time_between_sessions():
    """A question of which one chain ran in the first session, and another one a week later."""
    week = 7 * 24 * 3600.0
    chains = [
        chain("1", sample=i).model_copy(update={"started": start, "ended": start + 2 + i})
        for i, start in enumerate((10.0, week + 10.0, week + 11.0))
    ]
    assert latency(chains, [5.0, week])["median"] == 2 + 5
    assert latency(chains)["median"] > week
    assert latency(chains[:1], [5.0, week])["median"] == 2


def rating(sample, value, by="target", question="q"):
    return RatingEvent(question=question, sample=sample, by=by, rating=value, call=call("target", "verify", 0.0))


def end(sample, value=None, question="q"):
    return ChainEvent(
        question=question, sample=sample, text="", answer=None, ending="ended", turns=1, take_overs=0, rating=value,
        started=0.0, ended=1.0,
    )  # fmt: skip


def test_perplexity_counts_chains_and_not_the_steps_of_a_search():
    steps = [rating(sample, value) for value in (0.9, 0.8, 0.5) for sample in range(2)]
    found = perplexity([*steps, end(0, 0.5), end(1, 0.5)])
    assert found == {"median": 2.0, "quartiles": [2.0, 2.0], "chains": 2}
    # one whose place a copy took has the copy's rating, and not that of what was pruned
    assert perplexity([rating(0, 0.5), rating(1, 0.1), end(0, 0.5), end(1, 0.5)])["quartiles"] == [2.0, 2.0]
    # ranked by something else, a chain has its own last one
    assert (
        perplexity([rating(0, 0.5), rating(1, 0.5), rating(1, 0.7, "judge"), end(0, 0.5), end(1, 0.7)])["median"] == 2
    )
    # chains that were not rated by the target, or did not finish, do not count
    assert perplexity([rating(0, 0.5), rating(1, 0.5), end(0, 0.5)]) is None
    assert perplexity([rating(0, 0.5, "own"), rating(1, 0.5, "own"), end(0, 0.5), end(1, 0.5)]) is None


def test_tokens_are_those_of_every_role():
    events = [
        ChunkEvent(question="q", sample=0, turn=0, author="draft", text="", tokens=3, ended=False,
                   calls=(call("draft", "decode", 0.0), call("verifier", "verify", 0.0))),
        LostEvent(question="q", sample=1, error="boom", calls=(call("draft", "decode", 0.0),)),
    ]  # fmt: skip
    assert tokens(Usage.of(events)) == {
        "draft_decode": 6, "target_decode": 0, "verifier_decode": 3,
        "draft_dropped": 3, "target_dropped": 0, "verifier_dropped": 0,
        "draft_prefill": 8, "target_prefill": 0, "verifier_prefill": 4,
    }  # fmt: skip
    assert set(tokens(Usage.of([]))) == {
        f"{r}_{k}" for r in ("draft", "target") for k in ("decode", "dropped", "prefill")
    }
    assert flops(Usage.of(events), {"draft": 10, "verifier": 100}) == {
        "draft": 280.0,
        "verifier": 1400.0,
        "all": 1680.0,
    }


def test_calls_are_told_apart_by_what_they_were_for():
    """Two runtimes may serve one role, and one runtime two."""
    calls = [call("draft", "decode", 0.0).model_copy(update={"runtime": name}) for name in ("a", "b")]
    assert call_times(calls) == [{"role": "draft", "kind": "decode", "count": 2, "mean_s": 0.5}]


def test_a_summary_counts_what_lost_chains_cost_and_no_more_of_them(tmp_path):
    path = tmp_path / "run"
    whole = summarise(run(path, [["1", "2"]]))
    again = CONFIGURATION | {"questions": 1}
    with RunFolder.open(path, again, {"parameters": {"draft": 1000, "target": 9000}}) as folder:
        folder.ask(asked(1).values())
        with Recorder(folder) as record:
            for event in written("q0", 2, "1", folder.run["sessions"][-1])[:-1]:
                record(event)
            record(LostEvent(question="q0", sample=2, error="boom"))
            for event in written("q0", 3, "1", folder.run["sessions"][-1])[:1]:
                record(event)
            lost, errors = len(record.lost), record.errors()
    found = summarise(RunFolder.read(path))
    assert found == summarise(folder) == summarise(folder, lost, errors)
    assert (found["chains_lost"], found["errors"]) == (1, {"boom": 1})
    assert (found["chains_completed"], found["chains_ungraded"]) == (2, 0)
    # each chain has 3 tokens of the draft, dropped, 3 by the target, and a verify that says it decoded 3
    assert (whole["tokens"]["draft_decode"], whole["tokens"]["target_decode"]) == (6, 12)
    assert (found["tokens"]["draft_decode"], found["tokens"]["target_decode"]) == (12, 18)
    assert (found["tokens"]["draft_dropped"], found["tokens"]["target_dropped"]) == (12, 6)
    assert found["flops"]["all"] == 2 * (1000 * (12 + 4 * 4) + 9000 * (18 + 4 * 6))
    assert found["accuracy"] == whole["accuracy"]
    assert found["chain_s"] == whole["chain_s"]
    assert sum(one["count"] for one in found["calls"]) == sum(one["count"] for one in whole["calls"]) + 4


def test_a_summary_of_what_is_graded_so_far(tmp_path):
    path = tmp_path / "run"
    with RunFolder.open(path, CONFIGURATION | {"questions": 1}, {}) as folder:
        folder.ask(asked(1).values())
        with Recorder(folder) as record:
            for event in written("q0", 0, "1", folder.run["sessions"][-1]):
                record(event)
    found = summarise(RunFolder.read(path))
    assert (found["chains_completed"], found["chains_ungraded"]) == (1, 1)
    assert found["accuracy"]["mean"] is None
    assert found["tokens"]["target_decode"] == 6


def verdict(turn, taken):
    call = Call(
        runtime="target-0", role="target", kind="verify", prompt_tokens=9, cached_tokens=5, completion_tokens=0,
        started=0, ended=1,
    )  # fmt: skip
    return VerdictEvent(
        question="q", sample=0, turn=turn, score=1.0, tokens=3, p_value=0.1 if taken else 0.9, alpha=0.3, n=9,
        take_over=taken, replaced=False, call=call,
    )  # fmt: skip


def test_take_over_rates_carry_their_counts():
    found = take_over([verdict(0, True), verdict(0, False), verdict(1, True)], 0.3)
    assert (found["nominal"], found["realised"], found["decisions"]) == (0.3, 2 / 3, 3)
    assert [(row["turn"], row["realised"], row["decisions"]) for row in found["by_turn"]] == [(0, 0.5, 2), (1, 1.0, 1)]
    assert take_over([], 0.3)["realised"] is None
    assert take_over([], None)["selectivity"] is None


def gated(path, kind, alarm=None, change=lambda path, configuration, environment: None, questions=16, chains=4):
    """A run whose gate decided on scores that only rise, a chunk a turn over four turns."""
    gate = {"alpha": 0.25, "kind": kind, "online": None, "alarm": alarm}
    configuration = CONFIGURATION | {"questions": questions, "chains": chains, "gate": gate}
    environment = {"parameters": {}, "packages": packages()}
    change(path, configuration, environment)
    decide = make(kind, 0.25, chains=chains)
    with RunFolder.open(path, configuration, environment) as folder:
        folder.ask(asked(questions).values())
        with Recorder(folder) as record:
            for q, s in itertools.product(range(questions), range(chains)):
                *_, last = written(f"q{q}", s, "1", folder.run["sessions"][-1])
                for turn in range(4):
                    score = float(100 * q + 10 * s + turn)
                    took = decide(score, question=f"q{q}", sample=s, turn=turn).take_over
                    record(verdict(turn, took).model_copy(update={"question": f"q{q}", "sample": s, "score": score}))
                decide.finish(f"q{q}", s)
                record(last)
    return summarise(RunFolder.read(path))["take_over"]


@pytest.mark.parametrize("kind", ["marginal", "adaptive", "adaptive-turn", "balanced", "turn-budget", "open-budget"])
def test_a_summary_has_the_bound_that_holds_at_its_own_number_of_decisions(tmp_path, kind):
    found = gated(tmp_path / "run", kind)
    assert found["decisions"] == 256
    shown = [(found["realised"], found["bound"]), *((turn["realised"], turn["bound"]) for turn in found["by_turn"])]
    assert all(abs(rate - 0.25) <= bound + 1e-9 for rate, bound in shown if bound is not None)
    if kind == "balanced":
        assert found["bound"] == pytest.approx(16 * 3.75 / 256)  # 3 and 3/4 a question
    if kind == "turn-budget":
        assert {turn["bound"] for turn in found["by_turn"]} == {0.0} == {found["bound"]}
    if kind in ("marginal", "open-budget"):
        assert {bound for _, bound in shown} == {None}


def lose(path, configuration, environment):
    with RunFolder.open(path, configuration, environment) as folder:
        folder.ask(asked(16).values())
        with Recorder(folder) as record:
            record(LostEvent(question="q0", sample=0, error="boom"))


def begin(path, configuration, environment):
    with RunFolder.open(path, configuration, environment) as folder:
        folder.ask(asked(16).values())
        with Recorder(folder) as record:
            for event in written("q0", 4, "1", folder.run["sessions"][-1]):
                record(event)


@pytest.mark.parametrize(
    "options",
    [
        {"change": lose},
        {"change": begin},
        {"change": lambda path, configuration, environment: environment.clear()},
        {"change": lambda path, configuration, environment: environment["packages"].update({"a1-sgl": "0.0.1"})},
        {"alarm": {"action": "hand-over", "threshold": 100.0}},
    ],
)
def test_no_bound_where_the_gate_made_other_decisions_than_those_recorded(tmp_path, options):
    """Or may have: some were lost, an alarm overruled it, or it was another version's."""
    found = gated(tmp_path / "run", "balanced", **options)
    assert found["bound"] is None
    assert {turn["bound"] for turn in found["by_turn"]} == {None}
    warned = gated(tmp_path / "other", "balanced", alarm={"action": "warn", "threshold": 100.0})
    assert warned["bound"] is not None


def test_bounds_are_shown_rounded_up():
    assert [shown_bound(one) for one in (None, 0.0, 0.0190000000001, 0.01901, 0.2)] == [
        "-", "±0.0%", "±1.9%", "±2.0%", "±20.0%"
    ]  # fmt: skip


def test_take_over_intervals_are_clustered_by_question():
    alike = [verdict(turn, q < 5).model_copy(update={"question": str(q)}) for q in range(20) for turn in range(10)]
    found = take_over(alike, 0.25)
    assert (found["low"], found["high"]) == pytest.approx(exact_interval(5, 20))
    assert found["low"] < exact_interval(50, 200)[0]


def test_usage_counts_what_was_computed():
    call = {"runtime": "target-0", "role": "target", "started": 0.0, "ended": 1.0}
    calls = [
        Call(kind="verify", prompt_tokens=100, cached_tokens=90, completion_tokens=0, **call),
        Call(kind="decode", prompt_tokens=100, cached_tokens=99, completion_tokens=7, **call),
    ]
    events = [ChunkEvent(question="q", sample=0, turn=0, author="target", text="", tokens=7, ended=False, calls=calls)]
    dropped = DropEvent(question="q", sample=0, turn=0, author="target", tokens=3, reason="pruned")
    assert Usage.of([*events, dropped]).dropped == {"target": 3}
    usage = Usage.of(events)
    assert (usage.decode, usage.prefill, usage.prompt, usage.cached) == ({"target": 7}, {"target": 11}, 200, 189)
    assert usage.cached_share == 189 / 200
    assert Usage.of([]).cached_share is None


def test_a_loss_needs_a_token():
    assert Loss((1.0, 3.0)).mean == 2.0
    with pytest.raises(ValueError, match="at least one"):
        Loss(())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("\\boxed{42}", ["42"]),
        ("\\boxed{ 1 } then \\boxed{\\frac{1}{2}}", ["1", "\\frac{1}{2}"]),
        ("\\boxed{4", []),
        ("\\boxed{1} \\boxed{2", ["1"]),
        ("boxed{3}", []),
    ],
)
def test_boxes(text, found):
    assert boxes(text) == found
    assert final_answer(text) == (found[-1] if found else None)


def test_every_prefix_of_a_box_is_unanswered():
    whole = "so \\boxed{a{b}c}"
    assert all(boxes(whole[:n]) == [] for n in range(len(whole)))
    assert boxes("put it within \\boxed{}") == []  # a model repeats its instruction
