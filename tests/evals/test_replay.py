"""Replay: arrival orders, formats, rules, and the figures that the recommended gate must reach on real records."""

import gzip
import itertools
import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from a1_sgl.conformal import BUDGETS, GATES, RECOMMENDED, Place, make
from a1_sgl.errors import ConfigError
from a1_sgl.evals import replay
from a1_sgl.evals.replay import ORDERS, RULES, Replay, Trace, arrivals, read
from a1_sgl.types import VerdictEvent

TRACES = Path(__file__).parents[2].parent / "shared" / "data" / "traces"
RECORD = TRACES / "r1-llama8b_qwq32b_math500.jsonl.gz"
recorded = pytest.mark.skipif(not RECORD.exists(), reason=f"no recorded chains at {RECORD}")


def write(path, questions=6, chains=4, turns=3, seed=0):
    rng = np.random.default_rng(seed)
    with path.open("w") as file:
        for q in range(questions):
            for s in range(chains):
                rows = [{"ppl": float(1 + rng.exponential()), "draft_chars": 9} for _ in range(1 + (q + s) % turns)]
                file.write(json.dumps({"problem": q, "sample": s, "turns": rows}) + "\n")
    return path


@pytest.fixture
def trace(tmp_path):
    return read([write(tmp_path / "chains.jsonl")])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("interleave", [1, 3, 100])
def test_every_chunk_arrives_once_and_in_its_chains_order(trace, order, interleave):
    steps = list(arrivals(trace, 1, interleave, order))
    assert len(steps) == trace.chunks
    of = defaultdict(list)
    live, done, left = set(), set(), Counter()
    for chain in trace.chains:
        left[chain.question] += len(chain.chunks)
    for chain, index in steps:
        of[chain.question, chain.sample].append(index)
        live.add(chain.question)
        assert chain.question not in done
        left[chain.question] -= 1
        if not left[chain.question]:
            live.discard(chain.question)
            done.add(chain.question)
        assert len(live) <= interleave
    assert all(indices == list(range(len(indices))) for indices in of.values())
    assert steps == list(arrivals(trace, 1, interleave, order))
    assert steps != list(arrivals(trace, 2, interleave, order))


def test_in_step_a_question_never_goes_back_a_turn(trace):
    seen = defaultdict(list)
    for chain, index in arrivals(trace, 0, 3, "turns"):
        seen[chain.question].append(chain.chunks[index].turn)
    assert all(turns == sorted(turns) for turns in seen.values())


@pytest.mark.parametrize("name", [*GATES, *BUDGETS, *RULES])
def test_every_gate_and_rule_replays(trace, name):
    rates = Replay(trace, 2, calibration=(1.0, 1.5, 2.0, 3.0), minimum=1).run(name, 0.5, 0)
    own = sum(1 for chain in trace.chains if chain.sample % 2) if name == "presampled" else 0
    assert rates.overall.n == trace.chunks - own
    assert 0 < rates.overall.hits < rates.overall.n


def test_the_synchronous_rule_hands_over_the_worst_of_each_turn(trace):
    rates = Replay(trace).run("synchronous", 0.5, 0)
    cells = defaultdict(list)
    for decided in rates.decisions:
        cells[decided.place.question, decided.place.turn].append(decided)
    for cell in cells.values():
        assert sum(d.take_over for d in cell) == min(2, len(cell))
        kept = [d.score for d in cell if not d.take_over]
        assert min(d.score for d in cell if d.take_over) >= max(kept, default=0)


def test_the_authors_rule_takes_its_array_where_there_is_one(tmp_path):
    path = tmp_path / "one.jsonl"
    turns = [{"ppl": 2.0, "percentile": 0.9}, {"ppl": 1.0, "percentile": 0.1}]
    path.write_text(json.dumps({"problem": 0, "sample": 0, "turns": turns}) + "\n")
    trace = read([path])
    assert [d.take_over for d in Replay(trace).run("authors", 0.4, 0).decisions] == [True, False]
    # an array in which both are low, then one in which both are high
    assert [d.take_over for d in Replay(trace, calibration=(5.0, 6.0)).run("authors", 0.4, 0).decisions] == [False] * 2
    assert [d.take_over for d in Replay(trace, calibration=(0.5, 0.6)).run("authors", 0.4, 0).decisions] == [True] * 2


def test_turns_without_a_score_are_counted_and_left_out(tmp_path):
    path = tmp_path / "chains.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"problem": 3, "sample": 1, "turns": [{"ppl": 2.0}, {"draft_chars": 0}, {"ppl": 1.0}]}))
    trace = read([path])
    assert trace.unscored == 1
    assert [chunk.turn for chunk in trace.chains[0].chunks] == [0, 2]


def redrawn(path, questions=5, chains=4, turns=3, retries=3, alpha=0.4):
    """A run's events as a program writes that draws a chunk again while its gate rejects it; and what was decided.

    The gate tosses a coin for each draw, whatever came before, so that its decisions are the same in every order.
    """
    rng, gate, decided = np.random.default_rng(3), make("random", alpha), {}
    with path.open("w") as file:
        for q, s, t in itertools.product(map(str, range(questions)), range(chains), range(turns)):
            for attempt in range(retries + 1):
                place = Place(q, s, t, "sums", attempt)
                decision = gate(float(rng.exponential()), **place._asdict())
                event = VerdictEvent(
                    question=q, sample=s, turn=t, attempt=attempt, task="sums", score=decision.score, tokens=5,
                    p_value=decision.p_value, alpha=alpha, take_over=decision.take_over, replaced=False,
                )  # fmt: skip
                assert event.place == place
                file.write(event.model_dump_json() + "\n")
                decided[place] = decision.take_over
                if not decision.take_over:
                    break
    return decided


def test_draws_of_a_turn_are_attempts_in_their_order(tmp_path):
    path = tmp_path / "events.jsonl"
    draws = [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
    row = {"event": "verdict", "question": "q", "sample": 0}
    rows = [row | {"turn": t, "attempt": k, "score": 10.0 * t + k} for t, k in draws]
    del rows[0]["attempt"]  # as in a record of a program that draws once
    for some in (rows, rows[::-1]):
        path.write_text("".join(json.dumps(one) + "\n" for one in some))
        [chain] = read([tmp_path]).chains
        assert [(chunk.turn, chunk.attempt) for chunk in chain.chunks] == draws
        assert [chunk.score for chunk in chain.chunks] == [10.0 * t + k for t, k in draws]


def test_a_record_with_redraws_is_replayed_as_it_was_decided(tmp_path):
    decided = redrawn(tmp_path / "events.jsonl")
    trace = read([tmp_path])
    assert trace.chunks == len(decided) > 60
    assert {place.attempt for place in decided} == {0, 1, 2, 3}
    for order in ORDERS:
        plan = Replay(trace, 2, order, minimum=1)
        rates = plan.run("random", 0.4, 0)
        assert {d.place: d.take_over for d in rates.decisions} == decided
        assert len(rates.decisions) == len(decided)
        by_turn = Counter(place.turn for place in decided)
        hits = Counter(place.turn for place, took in decided.items() if took)
        assert {turn: rate[:2] for turn, rate in rates.by("turn").items()} == {
            turn: (hits[turn], by_turn[turn]) for turn in range(3)
        }
        assert plan.measure(rates)["per_turn"] == [hits[turn] / by_turn[turn] for turn in range(3)]
        attempts = defaultdict(list)
        for place, _, _ in rates.decisions:
            attempts[place[:3]].append(place.attempt)
        assert all(seen == list(range(len(seen))) for seen in attempts.values())
        assert plan.martingale(0) == []  # too few questions to learn from


@pytest.mark.parametrize("name", [*GATES, *BUDGETS, *RULES])
def test_every_gate_and_rule_replays_redraws(tmp_path, name):
    decided = redrawn(tmp_path / "events.jsonl")
    trace = read([tmp_path])
    rates = Replay(trace, 2, calibration=(0.2, 0.7, 1.5), minimum=1).run(name, 0.5, 0)
    n = {"presampled": trace.chunks - 10, "synchronous": 60}.get(name, trace.chunks)
    assert rates.overall.n == n
    assert 0 < rates.overall.hits < n
    assert {d.place for d in rates.decisions} <= set(decided)
    if name in ("turn-budget", "synchronous"):
        handed = {(d.place.question, d.place.turn, d.place.sample) for d in rates.decisions if d.take_over}
        assert set(Counter(cell[:2] for cell in handed).values()) == {2}


def test_the_authors_rule_has_an_array_of_first_draws(tmp_path):
    row = {"event": "verdict", "question": "q", "turn": 0}
    scores = [(0, 0, 1.0), (0, 1, 9.0), (0, 2, 1.5), (1, 0, 2.0)]
    rows = [row | {"sample": s, "attempt": k, "score": score} for s, k, score in scores]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    rates = Replay(read([tmp_path])).run("authors", 0.2, 0)
    taken = {(d.place.sample, d.place.attempt): d.take_over for d in rates.decisions}
    # The array is 1, 2: with the other draws in it, 9 alone would be handed over.
    assert taken == {(0, 0): False, (0, 1): True, (0, 2): False, (1, 0): True}


def test_several_records_keep_their_questions_apart(tmp_path):
    one, two = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl", seed=1)
    both = read([one, two])
    assert len({chain.question for chain in both.chains}) == 12


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "holds no scored chunk"),
        ("no json\n", "line 1: not a recorded chain"),
        ('{"problem": 1, "sample": 0}\n', "line 1: .*turns: is missing"),
        ('{"problem": 1, "sample": 0, "turns": [{"ppl": NaN}]}\n', r"turns\.0\.ppl: must be a finite number, not nan"),
        ('{"problem": 1, "sample": 0, "turns": [{"ppl": null}]}\n', r"turns\.0\.ppl: must be a number, not "),
        ('{"problem": 1, "sample": 0, "turns": "abc"}\n', "turns: must be a list, not 'abc'"),
        ('{"problem": 1, "sample": 0, "turns": [{"ppl": 1}]}\n' * 2, "line 2: .*chain 0 of problem 1 was read before"),
        (
            '{"event": "verdict", "question": "q", "sample": 0, "turn": -3, "score": 1}\n',
            "turn: must be at least 0, not -3",
        ),
        (
            '{"event": "verdict", "question": "q", "sample": 0, "turn": "x", "score": 1}\n',
            "turn: must be a whole number, not 'x'",
        ),
        (
            '{"event": "verdict", "question": "q", "sample": 0, "turn": 1, "score": 1}\n' * 2,
            "turn 1 of chain 0 was decided",
        ),
        (
            '{"event": "verdict", "question": "q", "sample": 0, "turn": 1, "score": 1}\n'
            '{"event": "verdict", "question": "q", "sample": 0, "turn": 1, "attempt": 1, "score": 1}\n'
            '{"event": "verdict", "question": "q", "sample": 1, "turn": 1, "attempt": 1, "score": 1}\n'
            '{"event": "verdict", "question": "q", "sample": 0, "turn": 1, "attempt": 1, "score": 2}\n',
            "line 4: .*turn 1 of chain 0 was decided before, attempt 1",
        ),
        (
            '{"event": "verdict", "question": "q", "sample": 0, "turn": 1, "score": 1}\n'
            '{"event": "verdict", "question": "q", "sample": 0, "turn": 1, "attempt": 0, "score": 1}\n',
            "line 2: .*turn 1 of chain 0 was decided before, attempt 0",
        ),
        (
            '{"event": "verdict", "question": "q", "sample": 0, "turn": 1, "attempt": -1, "score": 1}\n',
            "line 1: .*attempt: must be at least 0, not -1",
        ),
        (
            '{"event": "verdict", "question": "q", "sample": 0, "turn": 1' + "0" * 400 + ', "score": 1}\n',
            "line 1: .*turn: must be below 1000000, not 10",
        ),
        (
            '{"event": "verdict", "question": "q", "sample": 0, "turn": 1, "score": 1' + "0" * 400 + "}\n",
            "line 1: .*score: must be a number, not ",
        ),
        (
            '{"problem": 1, "sample": 0, "turns": [{"ppl": 1' + "0" * 400 + "}]}\n",
            r"line 1: .*turns\.0\.ppl: must be a number, not ",
        ),
        (
            '{"problem": 1, "sample": 0, "turns": [{"ppl": 1' + "0" * 5000 + "}]}\n",
            "line 1: not a recorded chain",
        ),
        ('{"problem": 1, "sample": 0, "turns": []}\n', "holds no scored chunk"),
        ('{"event": "prompt"}\n', "holds no scored chunk"),
        ("[]\n", "line 1"),
    ],
)
def test_an_unreadable_record_says_where(tmp_path, text, what):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        read([path])
    assert str(path) in str(caught.value)


def test_missing_files_and_options_are_named(trace, tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read([tmp_path / "none.jsonl"])
    with pytest.raises(ConfigError, match="does not exist"):
        read([tmp_path])
    with pytest.raises(ConfigError, match="unknown gate 'x'; known: balanced"):
        Replay(trace).run("x", 0.4, 0)
    with pytest.raises(ConfigError, match="--calibration"):
        Replay(trace).run("frozen", 0.4, 0)
    with pytest.raises(ConfigError, match="interleave"):
        Replay(trace, 0).run("marginal", 0.4, 0)
    with pytest.raises(ConfigError, match="unknown order"):
        Replay(trace, order="backwards").run("marginal", 0.4, 0)
    with pytest.raises(ConfigError, match="do not exist"):
        replay.calibration(tmp_path / "none.npy")
    (tmp_path / "bad.npy").write_text("x")
    with pytest.raises(ConfigError, match="cannot be read"):
        replay.calibration(tmp_path / "bad.npy")
    np.save(tmp_path / "nan.npy", [1.0, np.nan])
    with pytest.raises(ConfigError, match="finite numbers"):
        replay.calibration(tmp_path / "nan.npy")


def test_averages_are_of_single_passes(trace):
    plan = Replay(trace, 2, minimum=1)
    passes = [plan.measure(plan.run("marginal", 0.4, seed)) for seed in range(3)]
    mean, first = plan.average("marginal", 0.4, 3)
    for key in ("overall", "mean_turn_deviation", "max_turn_deviation", "mean_question_deviation"):
        assert mean[key] == pytest.approx(np.mean([one[key] for one in passes]))
    assert len(mean["per_turn"]) == 3
    assert first.overall.realised == passes[0]["overall"]


@pytest.mark.parametrize("name", [*GATES, *BUDGETS, *RULES])
@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_what_is_shown_as_a_bound_holds_in_every_pass(tmp_path, name, alpha):
    """On a record whose scores only rise, which drives away every rate that nothing holds."""
    with (tmp_path / "rising.jsonl").open("w") as file:
        for q in range(12):
            for s in range(8):
                rows = [{"ppl": float(1000 * q + 10 * t + s)} for t in range(1 + (5 * q + s) % 9)]
                file.write(json.dumps({"problem": q, "sample": s, "turns": rows}) + "\n")
    plan = Replay(read([tmp_path / "rising.jsonl"]), 2, calibration=(1.0, 500.0, 2000.0), minimum=1)
    for seed in range(3):
        rates = plan.run(name, alpha, seed)
        found = plan.measure(rates)
        shown = [(found["overall"], found["bound"]), *zip(found["per_turn"], found["per_turn_bound"], strict=True)]
        shown += [(rate.realised, rate.bound) for rate in rates.by("question").values()]
        assert all(abs(rate - alpha) <= bound + 1e-9 for rate, bound in shown if bound is not None)
        known = any(bound is not None for _, bound in shown)
    if name in ("balanced", "turn-budget"):
        assert known
    if name not in ("balanced", "turn-budget", "adaptive", "adaptive-turn", "decaying-turn"):
        assert not known


@recorded
@pytest.mark.parametrize(("order", "interleave"), [("random", 8), ("random", 1), ("turns", 8)])
def test_the_recommended_gate_holds_the_rate_on_real_chains(order, interleave):
    """By turn and by question at once, with selectivity: what no other gate or rule here does."""
    found, _ = Replay(read([RECORD]), interleave, order).average(RECOMMENDED, 0.4, 5)
    assert abs(found["overall"] - 0.4) <= 0.01
    assert found["mean_turn_deviation"] <= 0.012
    assert found["max_turn_deviation"] <= 0.035
    assert found["mean_question_deviation"] <= 0.035
    assert found["selectivity"] >= 0.80


@recorded
def test_the_authors_rule_is_replayed_as_it_was_run():
    """The recorded percentiles reproduce the decisions that were recorded: a take-over wherever the target wrote."""
    taken = {}
    with gzip.open(RECORD, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        for turn, one in enumerate(row["turns"]):
            taken[str(row["problem"]), row["sample"], turn] = "target_chars" in one
    rates = Replay(read([RECORD])).run("authors", 0.4, 0)
    assert all(d.take_over == taken[d.place.question, d.place.sample, d.place.turn] for d in rates.decisions)
    assert rates.overall.realised == pytest.approx(0.394, abs=5e-4)


@recorded
def test_a_budget_without_a_barrier_against_the_synchronous_rule():
    """Turn 0, where all 16 chains are present: both hand over exactly 6 of them, and three in four are the same."""
    whole = read([RECORD])
    first = Replay(Trace(tuple(replace(chain, chunks=chain.chunks[:1]) for chain in whole.chains), 0))
    reference = first.run("synchronous", 6 / 16, 0)
    assert reference.selectivity() == 1.0
    budgeted = [first.run("turn-budget", 6 / 16, seed) for seed in range(10)]
    for rates in (reference, *budgeted):
        assert {rate.hits for rate in rates.by("question").values()} == {6}
    assert np.mean([rates.selectivity() for rates in budgeted]) == pytest.approx(0.74, abs=0.02)
