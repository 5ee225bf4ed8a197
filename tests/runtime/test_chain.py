"""Chains on real runtimes: token-exact across two models, forks that share their prompt, take-overs."""

import itertools
import threading

import pytest

from a1_sgl.conformal import Gate, ScoreBank, marginal
from a1_sgl.errors import A1Error
from a1_sgl.programs import a1, direct
from a1_sgl.runtime import Transcript, chat, run_chains
from a1_sgl.types import CalibrationEvent, ChainEvent, ChunkEvent, PromptEvent, VerdictEvent, calls_of

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


def test_direct_writes_whole_chains(target, questions):
    result, events = run(direct, questions[0], target, samples=3, max_tokens=250)
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


def chain_of(backend, question, steps):
    """Runs `steps(chain)` inside a program and hands the chain's ids on each runtime back."""
    import sglang as sgl

    kept = {}

    @sgl.function
    def program(s):
        def body(chain):
            kept["value"] = steps(chain)
            kept["transcript"] = Transcript.of(chain.state.stream_executor)
            kept["text"] = chain.text

        return run_chains(s, question, 1, body)

    program.run(backend=backend, **SAMPLING)
    return kept


def test_one_tokenizer_passes_ids_across(pair, questions):
    def steps(chain):
        return [chain.draft(7), chain.target(5), chain.draft(4)]

    kept = chain_of(pair, questions[3], steps)
    ids = [token for chunk in kept["value"] for token in chunk.ids]
    prompt = pair.draft.encode(chat.render(pair.draft.tokenizer, questions[3].messages))
    assert kept["transcript"].ids(pair.draft) == kept["transcript"].ids(pair.target) == [*prompt, *ids]
    assert kept["text"] == "".join(chunk.text for chunk in kept["value"])


def test_two_tokenizers_each_see_their_own_prompt_and_ids_never_change(mixed, questions, reference):
    """The target's score of every chunk is transformers' on the target's own ids, and later turns leave them alone."""

    def steps(chain):
        seen = []
        for _ in range(3):
            chunk = chain.draft(5)  # five tokens end in the middle of a line, where encodings differ
            loss, _ = chain.loss(chunk)
            seen.append((Transcript.of(chain.state.stream_executor).ids(mixed.target), loss))
            chain.target(3)
        return seen

    seen = chain_of(mixed, questions[4], steps)["value"]
    prompt = mixed.target.encode(chat.render(mixed.target.tokenizer, questions[4].messages))
    assert not mixed.same_tokenizer
    for ids, loss in seen:
        assert tuple(ids[: len(prompt)]) == prompt
        expected = reference(mixed.target.model, ids)[len(ids) - loss.tokens - 1 :]
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
    def steps(chain):
        chain.draft(9)
        before = Transcript.of(chain.state.stream_executor).ids(pair.target)
        chain.drop(chain.draft(9))
        return before, Transcript.of(chain.state.stream_executor).ids(pair.target)

    before, after = chain_of(pair, questions[6], steps)["value"]
    assert before == after


def test_an_end_token_is_scored_with_its_chunk(pair, questions, reference):
    def steps(chain):
        chunk = chain.draft(2)
        for _ in range(40):
            if chunk.ended:
                break
            chunk = chain.draft(32)
        assert chunk.ended
        return chunk, chain.loss(chunk)[0], Transcript.of(chain.state.stream_executor).ids(pair.target)

    chunk, loss, ids = chain_of(pair, questions[7], steps)["value"]
    assert loss.tokens == len(chunk.ids) + 1
    full = [*ids, pair.target.tokenizer.eos_token_id]
    assert [-v for v in loss.values] == pytest.approx(reference(pair.target.model, full)[-loss.tokens :], abs=1e-4)


def test_no_chain_waits_for_another(pair, questions):
    """While one chain is held inside its gate, the others run to their end."""
    finished, others_done = [], threading.Event()

    class Held(Fixed):
        def __call__(self, score, **where):
            if where["sample"] == 0:
                assert others_done.wait(60)
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
    assert [(lost.sample, lost.error) for lost in result.lost] == [(1, "RuntimeError: gate fell over")]


def test_if_every_chain_breaks_the_program_raises(pair, questions):
    class Breaks(Fixed):
        def __call__(self, score, **where):
            raise RuntimeError("gate fell over")

    with pytest.raises(A1Error, match="gate fell over"):
        run(a1, questions[11], pair, gate=Breaks(False), samples=2, turns=1, draft_tokens=8)


def test_a_full_context_ends_the_chain(other, questions):
    result, events = run(direct, questions[12], other, samples=1, max_tokens=100_000, ignore_eos=True)
    (prompt,) = (e.call.prompt_tokens for e in events if isinstance(e, PromptEvent))
    assert result.chains[0].ending == "context"
    assert prompt + result.usage.decode["target"] == other.longest_prompt - 1


def test_a_chunk_that_fills_the_context_can_still_be_scored(pair, questions):
    import sglang as sgl

    @sgl.function
    def full(s, question):
        def body(chain):
            while chain._room() > 12:
                chain.append("5 + 5 = 10\n\n")
            chunk = chain.draft(100_000)
            assert chain.ending == "context"
            assert chain.score(chunk).tokens == len(chunk.ids)

        return run_chains(s, question, 1, body, None)

    state = full.run(question=questions[12], backend=pair, temperature=0.6, ignore_eos=True)
    assert not state.ret_value.lost


def test_an_unknown_take_over_is_refused(pair, questions):
    with pytest.raises(ValueError, match="unknown take-over 'keep'"):
        run(a1, questions[13], pair, gate=Fixed(False), take_over="keep")


@pytest.mark.parametrize("backend", ["pair", "mixed"])
def test_the_likelihood_ratio_asks_both_models(backend, request, questions):
    """The score is what transformers-exact losses of the two runtimes make of it, and both calls are accounted for."""
    pair = request.getfixturevalue(backend)
    losses = []

    def keep(prefix, chunk, options):
        value = type(pair.draft).loss(pair.draft, prefix, chunk, options)
        losses.append(value[0])
        return value

    pair.draft.loss = keep
    try:
        result, events = run(
            a1, questions[3], pair, gate=marginal(0.5), samples=1, turns=3, draft_tokens=9, score="llr"
        )
    finally:
        del pair.draft.loss
    verdicts = [event for event in events if isinstance(event, VerdictEvent)]
    assert verdicts
    assert len(losses) == len(verdicts)
    for event, draft in zip(verdicts, losses, strict=True):
        assert event.draft_call.runtime == "draft"
        assert event.draft_call.kind == "verify"
        target = event.score * event.tokens + sum(draft.values)
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


def test_a_collected_executor_asks_no_thread_for_its_lock():
    """SGLang's finaliser waited for itself when the collector ran it while a thread was starting."""
    from sglang.lang.interpreter import StreamExecutor

    assert not hasattr(StreamExecutor, "__del__")


def test_a_chain_that_leaves_no_room_for_the_judge_is_rated_by_its_end(pair, questions):
    import sglang as sgl

    ratings = []

    @sgl.function
    def long(s, question, listener):
        def body(chain):
            chain.draft(4)
            ratings.append(chain.rate())
            chain.append("5 + 5 = 10\n\n" * 58)
            ratings.append(chain.rate())

        return run_chains(s, question, 1, body, listener)

    result, _ = run(long, questions[3], pair)
    short, cut = (rating.call.prompt_tokens for rating in ratings)
    assert short < cut == pair.target.longest_prompt
    assert not result.lost


def test_a_target_that_corrects_itself_need_not_be_asked(pair):
    import sglang as sgl

    ratings = []

    @sgl.function
    def judged(s, question, line):
        def body(chain):
            chain.append(line)
            ratings.append(chain.rate(cue="Wait"))

        return run_chains(s, question, 1, body, None)

    # As the task asks, so that the target knows what it sees.
    from a1_sgl.evals.tasks import find_task
    from a1_sgl.types import Question

    messages = find_task("chain").ask("Start with 54. Add 3. Add 22. Add 11. What is the result?", "any")
    question = Question(id="q", messages=messages)
    for line in ("54 + 3 = 57\n\n", "54 + 3 = 97\n\n"):
        judged.run(question=question, line=line, backend=pair)
    right, wrong = ratings
    assert right.mean > 5 > wrong.mean
    assert right.mass == sum(right.digits) == 1
    assert right.call.completion_tokens == 0
