"""Chains on real runtimes: token-exact across two models, forks that share their prompt, take-overs."""

import itertools
import re
import threading

import pytest
import sglang as sgl

from a1_sgl.conformal import Gate, ScoreBank, marginal
from a1_sgl.errors import A1Error
from a1_sgl.programs import a1, direct
from a1_sgl.session import Backend, Query, Roles, Scored, aside, run_chains, scoring
from a1_sgl.types import CalibrationEvent, ChainEvent, ChunkEvent, DropEvent, PromptEvent, VerdictEvent, calls_of

SAMPLING = {"temperature": 0.6, "stop": "\n\n"}


class Fixed(Gate):
    """A gate with a constant verdict."""

    def __init__(self, take_over):
        super().__init__(0.5, ScoreBank([1e9] * 99 if not take_over else [-1e9] * 99), online=False)


def run(program, question, backend, **arguments):
    events = []
    sampling = {**SAMPLING, **({"stop": None} if program is direct else {})}
    state = program.run(question=question, backend=backend, listener=events.append, **sampling, **arguments)
    return state.ret_value, events


def test_direct_writes_whole_chains(single, questions):
    result, events = run(direct, questions[0], single, samples=3, max_tokens=250)
    assert [chain.sample for chain in result.chains] == [0, 1, 2]
    assert {chain.ending for chain in result.chains} <= {"answered", "ended", "turns"}
    assert sum(isinstance(e, PromptEvent) for e in events) == 1
    assert result.usage.decode == {"target": sum(c.completion_tokens for c in calls_of(events))}


@pytest.mark.parametrize("backend", ["pair", "mixed"])
def test_the_prompt_is_computed_once_on_each_runtime(backend, request, questions):
    pair = request.getfixturevalue(backend)
    pair.flush_cache()
    _, events = run(a1, questions[1], pair, gate=Fixed(False), samples=4, turns=2, draft_tokens=16)
    prompts = [e.call for e in events if isinstance(e, PromptEvent)]
    assert [call.runtime for call in prompts] == ["draft", "target"]
    assert [call.cached_tokens for call in prompts] == [0, 0]
    for runtime, prompt in zip(("draft", "target"), prompts, strict=True):
        own = [c for c in calls_of(events) if c.runtime == runtime and c.kind != "prefill"]
        assert all(call.cached_tokens >= prompt.prompt_tokens - 1 for call in own)


def test_each_call_finds_everything_but_the_new_tokens_cached(pair, questions):
    pair.flush_cache()
    _, events = run(a1, questions[2], pair, gate=Fixed(False), samples=1, turns=6, draft_tokens=9)
    length = {"draft": 0, "target": 0}
    for event in events:
        for call in calls_of([event]):
            if call.kind == "decode":
                assert call.cached_tokens == call.prompt_tokens - 1
            elif call.kind == "verify":
                chunk = event.tokens
                assert call.cached_tokens == call.prompt_tokens - chunk - 1
            length[call.runtime] = call.prompt_tokens
    assert length["draft"] > 60


def chain_of(backend, question, steps, **sampling):
    """Runs `steps(chain)` inside a program; what it returns, and the chain's transcript and text at the end."""
    kept = {}

    @sgl.function
    def program(s):
        def body(chain):
            kept["value"] = steps(chain)
            kept["transcript"] = chain.branch.transcript
            kept["text"] = chain.text

        return run_chains(s, Query.of(question, 1), body)

    result = program.run(backend=backend, use_thread=False, **SAMPLING | sampling).ret_value
    assert not result.lost
    return kept


def prompt_of(engine, question):
    return list(engine.codec.encode(engine.codec.render(question.messages)))


def ids_of(chain, engine):
    return chain.branch.transcript.ids(engine.codec).tolist()


def test_one_tokenizer_passes_ids_across(pair, questions):
    draft, target = pair.engines

    def steps(chain):
        return [chain.draft(7), chain.target(5), chain.draft(4)]

    kept = chain_of(pair, questions[3], steps)
    ids = [token for chunk in kept["value"] for token in chunk.ids]
    whole = [*prompt_of(draft, questions[3]), *ids]
    assert kept["transcript"].ids(draft.codec).tolist() == kept["transcript"].ids(target.codec).tolist() == whole
    assert kept["text"] == "".join(chunk.text for chunk in kept["value"])


def test_two_tokenizers_each_see_their_own_prompt_and_ids_never_change(mixed, questions, reference):
    """The target's score of every chunk is transformers' on the target's own ids, and later turns leave them alone."""
    draft, target = mixed.engines

    def steps(chain):
        seen = []
        for _ in range(3):
            chunk = chain.draft(5)  # five tokens end in the middle of a line, where encodings differ
            loss, _ = scoring.loss(chain, chunk)
            seen.append((ids_of(chain, target), loss))
            chain.target(3)
        return seen

    seen = chain_of(mixed, questions[4], steps)["value"]
    prompt = prompt_of(target, questions[4])
    assert draft.codec.tokenizer_key != target.codec.tokenizer_key
    for ids, loss in seen:
        assert ids[: len(prompt)] == prompt
        expected = reference(target.identity.model, ids)[len(ids) - loss.tokens - 1 :]
        assert [-v for v in loss.values] == pytest.approx(expected, abs=1e-4)
    for (before, _), (after, _) in itertools.pairwise(seen):
        assert after[: len(before)] == before


def test_continue_keeps_the_chunk_and_replace_drops_it(pair, questions):
    for take_over, authors in (("continue", ["draft", "target"]), ("replace", ["target"])):
        result, events = run(
            a1, questions[5], pair, gate=Fixed(True), samples=1, turns=1, draft_tokens=32, target_tokens=32,
            take_over=take_over,
        )  # fmt: skip
        chunks = [e for e in events if isinstance(e, ChunkEvent)]
        kept = chunks if take_over == "continue" else chunks[1:]
        assert [e.author for e in chunks] == ["draft", "target"]
        assert [e.author for e in kept] == authors
        assert result.chains[0].text == "".join(e.text for e in kept)
        assert result.chains[0].take_overs == 1
        assert [e.replaced for e in events if isinstance(e, VerdictEvent)] == [take_over == "replace"]


def test_after_a_drop_the_transcript_is_as_before(pair, questions):
    target = pair.roles.verifier.engine

    def steps(chain):
        chain.draft(9)
        before = ids_of(chain, target)
        chain.drop(chain.draft(9))
        return before, ids_of(chain, target)

    before, after = chain_of(pair, questions[6], steps)["value"]
    assert before == after


@pytest.mark.parametrize("what", ["drop", "score"])
def test_only_the_last_chunk_can_be_dropped_or_scored(pair, questions, what):
    def steps(chain):
        first, second = chain.draft(9), chain.draft(9)
        with pytest.raises(ValueError, match="only the last chunk of a chain can be .*another chunk came after it"):
            getattr(chain, what)(first)
        chain.drop(second)
        with pytest.raises(ValueError, match="it is not in the chain, or no more"):
            getattr(chain, what)(second)
        getattr(chain, what)(first)
        return True

    assert chain_of(pair, questions[6], steps)["value"]


def test_an_end_token_is_scored_with_its_chunk(pair, questions, reference):
    target = pair.roles.verifier.engine

    def steps(chain):
        chunk = chain.draft(2)
        for _ in range(40):
            if chunk.ended:
                break
            chunk = chain.draft(32)
        assert chunk.ended
        return chunk, scoring.loss(chain, chunk)[0], ids_of(chain, target)

    chunk, loss, ids = chain_of(pair, questions[7], steps)["value"]
    assert loss.tokens == len(chunk.ids) + 1
    full = [*ids, target.codec.eos]
    expected = reference(target.identity.model, full)[-loss.tokens :]
    assert [-v for v in loss.values] == pytest.approx(expected, abs=1e-4)


def test_no_chain_waits_for_another(pair, questions):
    """While one chain is held inside its gate, the others run to their end."""
    finished, others_done = [], threading.Event()

    class Held(Fixed):
        def __call__(self, score, **where):
            if where["sample"] == 0:
                assert aside(others_done.wait, 60)
            return super().__call__(score, **where)

    def listener(event):
        if isinstance(event, ChainEvent):
            finished.append(event.sample)
            if len(finished) == 3:
                others_done.set()

    a1.run(
        question=questions[8], gate=Held(False), samples=4, turns=20, draft_tokens=32, backend=pair, listener=listener,
        **SAMPLING,
    )  # fmt: skip
    assert finished[-1] == 0
    assert sorted(finished) == [0, 1, 2, 3]


def test_chains_by_number(pair, questions):
    result, _ = run(a1, questions[9], pair, gate=Fixed(False), samples=(2, 5), turns=1, draft_tokens=8)
    assert [chain.sample for chain in result.chains] == [2, 5]


def test_one_broken_chain_leaves_the_others(pair, questions):
    class Breaks(Fixed):
        def __call__(self, score, **where):
            if where["sample"] == 1:
                raise RuntimeError("gate fell over")
            return super().__call__(score, **where)

    result, _ = run(a1, questions[10], pair, gate=Breaks(False), samples=3, turns=1, draft_tokens=8)
    assert [chain.sample for chain in result.chains] == [0, 2]
    (lost,) = result.lost
    assert lost.sample == 1
    # where it came from, for whoever wrote the gate
    assert re.fullmatch(r"RuntimeError: gate fell over \(.*test_chain\.py:\d+\)", lost.error)


def test_if_every_chain_breaks_the_program_raises(pair, questions):
    class Breaks(Fixed):
        def __call__(self, score, **where):
            raise RuntimeError("gate fell over")

    with pytest.raises(A1Error, match="gate fell over"):
        run(a1, questions[11], pair, gate=Breaks(False), samples=2, turns=1, draft_tokens=8)


def test_a_full_context_ends_the_chain(other, questions):
    result, events = run(
        direct, questions[12], Backend(Roles.alone(other)), samples=1, max_tokens=100_000, ignore_eos=True
    )
    (prompt,) = (e.call.prompt_tokens for e in events if isinstance(e, PromptEvent))
    assert result.chains[0].ending == "context"
    assert prompt + result.usage.decode["target"] == other.limits.longest_prompt - 1


def test_a_chunk_that_fills_the_context_can_still_be_scored(pair, questions):
    def steps(chain):
        while chain.room() > 12:
            chain.append("5 + 5 = 10\n\n")
        chunk = chain.draft(100_000)
        assert chain.ending == "context"
        assert chain.score(chunk).tokens == len(chunk.ids)

    chain_of(pair, questions[12], steps, ignore_eos=True, stop=None)


def test_an_unknown_take_over_is_refused(pair, questions):
    with pytest.raises(ValueError, match="take_over must be 'continue', 'replace' or 'resample', .*not 'keep'"):
        run(a1, questions[13], pair, gate=Fixed(False), take_over="keep")


@pytest.mark.parametrize("backend", ["pair", "mixed"])
def test_the_likelihood_ratio_asks_both_models(backend, request, questions):
    """The score is what transformers-exact losses of the two runtimes make of it, and both calls are accounted for."""
    pair = request.getfixturevalue(backend)
    draft = pair.roles.writer.engine
    losses = []

    async def keep(request, start):
        scores = await type(draft).score(draft, request, start)
        losses.append([-value for value in scores.logprobs])
        return scores

    draft.score = keep
    try:
        result, events = run(
            a1, questions[3], pair, gate=marginal(0.5), samples=1, turns=3, draft_tokens=9, score="llr"
        )
    finally:
        del draft.score
    verdicts = [event for event in events if isinstance(event, VerdictEvent)]
    assert verdicts
    assert len(losses) == len(verdicts)
    for event, values in zip(verdicts, losses, strict=True):
        assert event.draft_call.runtime == "draft"
        assert event.draft_call.kind == "verify"
        target = event.score * event.tokens + sum(values)
        assert target > 0  # a negative log-likelihood of the same text
    assert {call.runtime for call in calls_of(verdicts)} == {"draft", "target"}
    assert result.usage.prompt == sum(call.prompt_tokens for call in calls_of(events))


def test_other_scores_change_what_the_gate_sees(pair, questions):
    seen = {}
    for name in ("mean_loss", "perplexity"):
        _, events = run(a1, questions[0], pair, gate=Fixed(False), samples=1, turns=1, draft_tokens=9, score=name)
        seen[name] = next(event for event in events if isinstance(event, VerdictEvent))
        assert seen[name].draft_call is None
    assert seen["perplexity"].score >= 1
    with pytest.raises(ValueError, match="unknown score 'luck'"):
        run(a1, questions[0], pair, gate=Fixed(False), samples=1, score="luck")


def test_presampled_chunks_fill_the_bank_and_are_no_chains(pair, questions):
    gate = marginal(0.5, online=False)
    result, events = run(a1, questions[1], pair, gate=gate, samples=2, turns=2, draft_tokens=9, presample=5)
    kinds = [type(event) for event in events]
    scores = [event for event in events if isinstance(event, CalibrationEvent)]
    assert len(scores) == len(gate.bank) == 5
    assert sorted(event.score for event in scores) == gate.bank.scores()
    assert [chain.sample for chain in result.chains] == [0, 1]
    assert all(event.n == 5 for event in events if isinstance(event, VerdictEvent))
    assert kinds.index(ChunkEvent) > max(i for i, kind in enumerate(kinds) if kind is CalibrationEvent)
    # what they cost is counted: a draft decode and a target prefill each
    assert [[call.kind for call in event.calls] for event in scores] == [["decode", "verify"]] * 5


def test_a_chain_that_ends_leaves_its_gate(pair, questions):
    from a1_sgl.conformal import open_budget

    gate = open_budget(1, 2)
    run(a1, questions[1], pair, gate=gate, samples=4, turns=4, draft_tokens=9)
    assert gate.control.busy(questions[1].id) == 0


def test_sglangs_executors_are_left_as_they_are():
    """Nothing is taken out of SGLang's own classes; what runs here needs no worker thread."""
    from sglang.lang.interpreter import StreamExecutor

    assert "__del__" in vars(StreamExecutor)


def test_a_chain_that_leaves_no_room_for_the_judge_is_rated_by_its_end(pair, questions):
    def steps(chain):
        chain.draft(4)
        first = chain.rate()
        chain.append("5 + 5 = 10\n\n" * 58)
        return first, chain.rate()

    ratings = chain_of(pair, questions[3], steps)["value"]
    short, cut = (rating.call.prompt_tokens for rating in ratings)
    assert short < cut == pair.roles.verifier.engine.limits.longest_prompt


def test_a_target_that_corrects_itself_need_not_be_asked(pair):
    # As the task asks, so that the target knows what it sees.
    from a1_sgl.evals.tasks import find_task
    from a1_sgl.types import Question

    messages = find_task("chain").ask("Start with 54. Add 3. Add 22. Add 11. What is the result?", "any")
    question = Question(id="q", messages=messages)

    def judged(line):
        def steps(chain):
            chain.append(line)
            return chain.rate(cue="Wait")

        return chain_of(pair, question, steps)["value"]

    right, wrong = judged("54 + 3 = 57\n\n"), judged("54 + 3 = 97\n\n")
    assert right.mean > 5 > wrong.mean
    assert right.mass == sum(right.digits) == 1
    assert right.call.completion_tokens == 0


def test_a_suffix_is_trimmed_off_text_and_ids(pair, questions):
    draft = pair.roles.writer.engine

    def steps(chain):
        chunk = chain.draft(40)
        assert chunk.text.endswith("\n\n")
        chain.trim(chunk, "\n\n")
        return chunk, chain.chunks[-1], ids_of(chain, draft)

    whole, kept, ids = chain_of(pair, questions[3], steps)["value"]
    assert kept.text == whole.text.removesuffix("\n\n")
    assert draft.codec.decode(kept.ids) == kept.text
    assert ids == [*prompt_of(draft, questions[3]), *kept.ids]


def test_what_was_begun_is_taken_up_by_the_same_author(pair, questions):
    def steps(chain):
        chain.begin(chain.roles.writer, 5)
        begun = chain._pending
        chunk = chain.draft(5)
        return begun.task.result().ids, chunk.ids

    said, kept = chain_of(pair, questions[3], steps)["value"]
    assert said == kept


def test_what_was_begun_for_another_author_is_rolled_back(pair, questions):
    events = []

    @sgl.function
    def program(s):
        def body(chain):
            chain.append("5 + 5 = 10\n\n")
            chain.begin(chain.roles.writer, 400, ignore_eos=True, stop=[])
            chain.rate()  # meanwhile it is under way
            chunk = chain.target(6)
            assert chain.text == "5 + 5 = 10\n\n" + chunk.text

        return run_chains(s, Query.of(questions[3], 1, listener=events.append), body)

    result = program.run(backend=pair, use_thread=False, **SAMPLING).ret_value
    assert not result.lost
    (drop,) = [event for event in events if isinstance(event, DropEvent)]
    assert (drop.author, drop.reason) == ("draft", "rolled back")
    assert drop.tokens == sum(call.completion_tokens for call in drop.calls) < 400
    assert [event.author for event in events if isinstance(event, ChunkEvent)] == ["program", "target"]
    assert result.usage.dropped == {"draft": drop.tokens}


def test_a_chain_that_is_over_has_no_text_any_more(pair, questions):
    kept = []
    chain_of(pair, questions[3], kept.append)
    with pytest.raises(RuntimeError, match="chain 0 was given up or is over"):
        kept[0].draft(3)


def test_a_rule_that_is_no_gate_reports_what_it_decided(pair, questions):
    def steps(chain):
        chunk = chain.draft(5)
        return chain.verdict(chunk, Scored(2.0, len(chunk.ids)), True, replace=True), chain.text

    assert chain_of(pair, questions[3], steps)["value"] == (True, "")
