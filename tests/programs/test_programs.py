"""Each program's own rule, on real runtimes."""

import math
from collections import defaultdict

import pytest

from a1_sgl.conformal import Gate, ScoreBank, turn_budget
from a1_sgl.errors import ConfigError
from a1_sgl.programs import PROGRAMS
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine
from a1_sgl.types import ChainEvent, ChunkEvent, DropEvent, RatingEvent, VerdictEvent
from a1_sgl.voting import decide

from .conftest import Constant


def of(events, kind, **where):
    return [e for e in events if isinstance(e, kind) and all(getattr(e, k) == v for k, v in where.items())]


# --- one model ------------------------------------------------------------------------------------------------


def test_a_decided_vote_stops_the_other_chains(pair, questions, solve):
    result, events = solve(
        "self_consistency",
        questions[2],
        backend=pair.alone("draft"),
        samples=16,
        stop_when="decided",
        temperature=0.1,
    )
    finished = [chain for chain in result.chains if chain.ending != "stopped"]
    stopped = [chain for chain in result.chains if chain.ending == "stopped"]
    assert len(result.chains) == 16
    assert all(chain.answer is None for chain in stopped)
    counts = sorted((sum(c.answer == a for c in finished) for a in {c.answer for c in finished}), reverse=True)
    assert not stopped or counts[0] > (counts[1:] or [0])[0] + 16 - len(finished)
    assert result.answer == decide("majority", finished)
    assert sum(e.tokens for e in of(events, DropEvent)) == sum(result.usage.dropped.values())


def test_a_rule_of_stopping_needs_a_majority_vote(single, questions, solve):
    with pytest.raises(ConfigError, match="stop_when 'decided' is for majority votes, not for vote 'weighted'"):
        solve("self_consistency", questions[2], backend=single, stop_when="decided", vote="weighted")


@pytest.mark.parametrize("rate", ["own", "target"])
def test_best_of_n_rates_by_exact_likelihood(rate, pair, questions, solve, reference):
    result, events = solve("best_of_n", questions[4], rate=rate, samples=3)
    role = pair.roles.writer if rate == "own" else pair.roles.verifier
    codec = role.engine.codec
    prompt = next(e.call.prompt_tokens for e in events if e.event == "prompt")
    ids = codec.encode(codec.render(questions[4].messages))
    assert len(ids) == prompt
    for chain in result.chains:
        whole = [*ids, *codec.encode(chain.text)]
        if of(events, ChunkEvent, sample=chain.sample)[-1].ended:
            whole.append(codec.eos)
        expected = reference(role.engine.identity.model, whole)[len(ids) - 1 :]
        assert chain.rating == pytest.approx(math.exp(sum(expected) / len(expected)), rel=1e-3)
    assert result.answer == max(result.chains, key=lambda chain: chain.rating).answer
    assert {e.call.runtime for e in of(events, RatingEvent)} == {role.engine.name}


def test_a_judge_rates_between_0_and_1(questions, solve):
    result, events = solve("best_of_n", questions[4], rate="judge", samples=2)
    assert all(0 <= chain.rating <= 1 for chain in result.chains)
    assert all(e.call.completion_tokens == 0 for e in of(events, RatingEvent))


@pytest.mark.parametrize(("name", "trees"), [("beam_search", [{0, 1, 2, 3}]), ("dvts", [{0, 1}, {2, 3}])])
def test_in_each_tree_the_best_step_survives(name, trees, questions, solve):
    _, events = solve(name, questions[5], width=2)
    ratings = {s: [e.rating for e in of(events, RatingEvent, sample=s)] for s in range(4)}
    drops = of(events, DropEvent, reason="pruned")
    dropped = {(e.sample, e.turn - 1) for e in drops}
    for turn in range(max(map(len, ratings.values()))):
        for tree in trees:
            going = [s for s in tree if turn < len(ratings[s])]
            ended = {s for s in going if turn == len(ratings[s]) - 1}
            competing = {s: ratings[s][turn] for s in going}
            lost = {s for s in going if (s, turn) in dropped}
            if not ended:  # those that end here keep their places
                assert len(lost) == len(going) - math.ceil(len(going) / 2)
                assert all(competing[a] <= competing[b] for a in lost for b in going if b not in lost)


def test_budget_forcing_makes_a_chain_think_on(single, questions, solve):
    result, events = solve(
        "budget_forcing", questions[6], backend=single, samples=2, max_tokens=300, extensions=2, wait="\n\nWait, "
    )
    for chain in result.chains:
        added = of(events, ChunkEvent, sample=chain.sample, author="program")
        assert [e.text for e in added] == ["\n\nWait, "] * len(added)
        assert len(added) == 2
        assert chain.text.count("\n\nWait, ") >= 2


def test_budget_forcing_asks_a_chain_without_an_answer(single, questions, solve):
    result, events = solve("budget_forcing", questions[6], backend=single, samples=2, max_tokens=12, extensions=0)
    for chain in result.chains:
        assert [e.text for e in of(events, ChunkEvent, sample=chain.sample, author="program")] == [
            "\n\nThe answer is \\boxed{"
        ]
        assert chain.answer is not None


def test_budget_forcing_takes_the_end_of_thinking_out(single, questions, solve):
    result, events = solve(
        "budget_forcing", questions[7], backend=single, samples=1, max_tokens=300, extensions=1, end_of_thinking=" = "
    )
    first = of(events, ChunkEvent)[0].text
    assert first.endswith(" = ")
    assert result.chains[0].text.startswith(first.removesuffix(" = ") + "\n\nWait, ")


def test_self_rejection_keeps_the_best_of_what_is_rejected(questions, solve):
    result, events = solve("self_reject", questions[8], gate=Constant(True), samples=1, retries=2, turns=3)
    by_turn = defaultdict(list)
    for event in of(events, VerdictEvent):
        by_turn[event.turn].append(event.score)
    assert all(len(scores) == 3 for scores in by_turn.values())
    chunks = defaultdict(list)
    for event in of(events, ChunkEvent):
        chunks[event.turn].append(event.text)
    kept = "".join(chunks[turn][scores.index(min(scores))] for turn, scores in sorted(by_turn.items()))
    assert result.chains[0].text == kept
    assert len(of(events, DropEvent, reason="redrawn")) == 2 * len(by_turn)


def test_a_chain_that_is_always_rejected_becomes_its_best_peer(questions, solve):
    class Against(Constant):
        def __call__(self, score, **where):
            self.sides = getattr(self, "sides", (Constant(False), Constant(True)))
            return self.sides[where["sample"] == 0](score, **where)

    class Lowest(Against):
        """And its peers are the better, whatever they score: the gap is negative."""

    result, events = solve(
        "self_reject_fork", questions[9], gate=Lowest(False), samples=2, retries=0, turns=12, gap=-100.0
    )
    one, other = result.chains
    texts = [e.text for e in of(events, ChunkEvent, sample=1)]
    assert of(events, DropEvent, sample=0, reason="pruned") or one.turns == 1
    assert other.text == "".join(texts)
    assert not of(events, DropEvent, sample=1)


# --- draft and target -----------------------------------------------------------------------------------------


def test_resampling_never_lets_the_target_write(questions, solve):
    result, events = solve("a1", questions[10], take_over="resample", retries=1, gate=Constant(True), samples=2)
    assert result.usage.decode.get("target", 0) == 0
    assert all(chain.take_overs == 0 for chain in result.chains)
    assert all(event.take_over for event in of(events, VerdictEvent))
    assert of(events, DropEvent, reason="redrawn")


@pytest.mark.parametrize(
    ("name", "own"), [("a1", {"take_over": "resample", "retries": 2}), ("self_reject", {"retries": 2})]
)
def test_each_draw_of_a_turn_has_an_attempt_of_its_own(name, own, questions, solve):
    """So that a gate draws afresh for each, and a record says which is which."""
    _, events = solve(name, questions[10], gate=Constant(True), samples=2, turns=3, **own)
    verdicts = of(events, VerdictEvent)
    attempts = defaultdict(list)
    for event in verdicts:
        attempts[event.sample, event.turn].append(event.attempt)
    assert len(attempts) > 2
    assert all(found == [0, 1, 2] for found in attempts.values())
    assert len({event.place for event in verdicts}) == len(verdicts)


def test_a_gate_draws_afresh_for_every_attempt():
    """All scores are the same, so that the draws alone decide; with one draw a turn would be rejected for good."""
    engine, events = FakeEngine("1 + 1 = 2\n\n", scores=-0.5), []
    gate = Gate(0.9, ScoreBank([0.5] * 99), online=False)
    PROGRAMS["self_reject"].run(
        question="q", backend=Backend(Roles.alone(engine)), gate=gate, samples=8, retries=20, turns=3, stop=["\n\n"],
        listener=events.append,
    )  # fmt: skip
    draws = defaultdict(list)
    for event in of(events, VerdictEvent):
        draws[event.sample, event.turn].append(event.p_value)
    assert len(draws) == 24
    assert any(len(values) > 1 for values in draws.values())
    assert all(len(set(values)) == len(values) for values in draws.values())
    assert sum(values[-1] > 0.9 for values in draws.values()) >= 12  # a draw is accepted in the end


def test_a1_with_a_budget_never_exceeds_it(questions, solve):
    _, events = solve("a1", questions[11], gate=turn_budget(1, 4))
    handed = defaultdict(int)
    for event in of(events, VerdictEvent, take_over=True):
        handed[event.turn] += 1
    assert handed
    assert max(handed.values()) <= 1


def test_the_synchronous_way_hands_over_exactly_the_worst(questions, solve):
    _, events = solve("a1_sync", questions[12], budget=2)
    turns = defaultdict(list)
    for event in of(events, VerdictEvent):
        turns[event.turn].append((event.score, event.take_over))
        assert event.p_value is None
    for said in turns.values():
        assert sum(take_over for _, take_over in said) == min(2, len(said))
        assert sum(score for score, _ in said) == pytest.approx(1)
        kept = [score for score, take_over in said if not take_over]
        assert not kept or max(kept) <= min(score for score, take_over in said if take_over)


def test_a_budget_beyond_the_chains_is_refused(questions, solve):
    with pytest.raises(ConfigError, match="budget must lie between 0 and samples = 4, not 5"):
        solve("a1_sync", questions[12], budget=5)


def test_a_lookahead_that_is_right_is_kept(questions, solve):
    result, events = solve("a1_lookahead", questions[13], gate=Constant(False), samples=2)
    assert not of(events, DropEvent)
    for chain in result.chains:
        assert chain.text == "".join(e.text for e in of(events, ChunkEvent, sample=chain.sample))
        assert chain.ending == "answered"
    turns = [(e.turn, e.author) for e in of(events, ChunkEvent, sample=0)]
    assert turns == [(turn, "draft") for turn in range(len(turns))]


@pytest.mark.parametrize("take_over", ["continue", "replace"])
def test_a_lookahead_that_is_wrong_is_rolled_back_and_accounted(take_over, questions, solve):
    result, events = solve("a1_lookahead", questions[14], gate=Constant(True), samples=2, take_over=take_over, turns=4)
    rolled = of(events, DropEvent, reason="rolled back")
    assert rolled
    assert all(call.runtime == "draft" and call.kind == "decode" for e in rolled for call in e.calls)
    for chain in result.chains:
        chunks = of(events, ChunkEvent, sample=chain.sample)
        kept = [e.text for e in chunks if take_over == "continue" or e.author == "target"]
        assert chain.text == "".join(kept)
        assert chain.take_overs == chain.turns


def test_lookahead_overlaps_verification(questions, solve):
    """Somewhere a draft's generation began before the verification of the chunk before it was over."""
    _, events = solve("a1_lookahead", questions[15], gate=Constant(False), samples=1)
    verifications = [e.call for e in of(events, VerdictEvent)]
    decodes = [call for e in of(events, ChunkEvent) for call in e.calls]
    assert any(
        v.started < d.started < v.ended or d.started < v.started < d.ended for v in verifications for d in decodes
    )


def test_spec_reason_goes_by_its_threshold(questions, solve):
    for threshold, expected in ((0.0, False), (9.5, True)):
        result, events = solve("spec_reason", questions[16], threshold=threshold, samples=2, turns=4)
        verdicts = of(events, VerdictEvent)
        assert {e.take_over for e in verdicts} == {expected}
        assert all(0 <= e.score <= 9 and e.call.completion_tokens == 0 for e in verdicts)
        assert all(chain.take_overs == expected * chain.turns for chain in result.chains)


def test_spec_reason_under_a_gate_has_p_values(questions, solve):
    _, events = solve("spec_reason", questions[16], gate=Constant(True), samples=1, turns=2)
    assert all(0 <= e.p_value <= 1 and e.take_over for e in of(events, VerdictEvent))


def test_the_target_can_plan_for_spec_reason(questions, solve):
    _, events = solve("spec_reason", questions[17], threshold=0.0, first_by_target=2, samples=1)
    assert [e.author for e in of(events, ChunkEvent)][:3] == ["target", "target", "draft"]


def test_speculative_thinking_takes_over_at_cues(questions, solve):
    never, always = {"affirmation": (), "verification": ()}, {"reflection": ("",)}
    result, _ = solve("speculative_thinking", questions[18], samples=1, reflection=(), **never)
    assert result.usage.decode.get("target", 0) == 0
    result, events = solve("speculative_thinking", questions[18], samples=1, **always, **never)
    assert all(e.take_over and e.call is None for e in of(events, VerdictEvent))
    assert result.chains[0].take_overs == len(of(events, VerdictEvent)) > 0


def test_speculative_thinking_recapitulates_after_doubts(questions, solve):
    result, events = solve(
        "speculative_thinking",
        questions[19],
        samples=1,
        doubts=1,
        recap="Let us see.",
        reflection=("",),
        probe_tokens=4,
    )
    assert "Let us see." in result.chains[0].text
    added = [i for i, e in enumerate(of(events, ChunkEvent)) if e.author == "program"]
    assert of(events, ChunkEvent)[added[0] + 1].author == "target"


@pytest.mark.parametrize(
    ("easy", "hard", "authors"), [(0.0, 0.0, {"draft"}), (1.0, 1.0, {"target"}), (1.0, 0.0, {"draft", "target"})]
)
def test_a_question_is_routed_by_its_p_values(easy, hard, authors, questions, solve):
    gate = Constant(easy == hard == 1.0 or hard == 0.0 < easy)
    result, events = solve("route", questions[20], easy=easy, hard=hard, gate=gate, samples=2, turns=6)
    first = {id(e) for e in of(events, ChunkEvent, turn=0, author="draft")}
    rest = {e.author for e in of(events, ChunkEvent) if id(e) not in first}
    assert rest == authors
    assert all(isinstance(chain, ChainEvent) for chain in result.chains)
