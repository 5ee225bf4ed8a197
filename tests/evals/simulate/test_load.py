"""What a record asks of the runtimes, and what is drawn from it."""

import statistics

import pytest

from a1_sgl.errors import ConfigError
from a1_sgl.evals.simulate.load import Chain, Question, Record, Request, Turn, planned, turned
from a1_sgl.types import Call, ChainEvent, ChunkEvent, DropEvent, PromptEvent, VerdictEvent

from ..made import run

PROMPTS = {"draft": 10, "target": 12}


def call(role, kind, at, prompt, cached, written, seconds=1.0):
    return Call(
        runtime=f"{role}-0", role=role, kind=kind, prompt_tokens=prompt, cached_tokens=cached,
        completion_tokens=written, started=at, ended=at + seconds, served_s=seconds - 0.25,
    )  # fmt: skip


def chain(question, sample, answer, at, text):
    """Two turns: the first chunk of 5 is replaced by one of 7, the second of 6 is accepted."""
    name = {"question": question, "sample": sample}
    verdict = {"n": 9, "alpha": 0.25, "tokens": 5}
    events = []
    if sample == 0:  # the question's prompt, at the same time on both
        events = [PromptEvent(question=question, call=call(role, "prefill", at, size, 0, 0))
                  for role, size in PROMPTS.items()]  # fmt: skip
    own = [
        ChunkEvent(**name, turn=0, author="draft", text="a", tokens=5, ended=False,
                   calls=(call("draft", "decode", at + 1, 10, 9, 5),)),
        VerdictEvent(**name, turn=0, score=2.5 + sample, take_over=True, replaced=True, **verdict,
                     call=call("target", "verify", at + 2, 17, 11, 0)),
        DropEvent(**name, turn=0, author="draft", tokens=5, reason="replaced"),
        ChunkEvent(**name, turn=0, author="target", text="b", tokens=7, ended=False,
                   calls=(call("target", "decode", at + 3, 12, 11, 7),)),
        ChunkEvent(**name, turn=1, author="draft", text="c", tokens=6, ended=True,
                   calls=(call("draft", "decode", at + 4, 17, 10, 6),)),
        VerdictEvent(**name, turn=1, score=0.5 + sample, take_over=False, replaced=False, **verdict,
                     call=call("target", "verify", at + 5, 25, 18, 0)),
        ChainEvent(question=question, sample=sample, text=text, answer=answer, ending="answered", turns=2,
                   take_overs=1, started=at + 1, ended=at + 6),
    ]  # fmt: skip
    return events + own


@pytest.fixture
def folder(tmp_path):
    run(tmp_path / "run", [["1", "1"], ["2", "1"]], write=chain)
    return tmp_path / "run"


def test_a_record_is_read_request_by_request(folder):
    record = Record.read(folder)
    assert (record.name, len(record.questions), len(record.ended), record.replaces) == ("run", 2, 4, True)
    (first, _) = record.questions
    assert first.prompts == PROMPTS
    assert not first.together
    assert first.chains[0].phases == (
        (Request("draft", 10, 9, 5), Request("target", 17, 11)), (Request("target", 12, 11, 7),),
        (Request("draft", 17, 10, 6), Request("target", 25, 18)), (),
    )  # fmt: skip
    assert record.wall == pytest.approx(6, abs=1e-3)
    assert record.latency == pytest.approx((5, 5), abs=1e-3)
    assert record.network == pytest.approx(0.25)
    assert record.in_flight == 4
    assert {key: len(of) for key, of in record.seconds.items()} == {
        ("draft", False): 2, ("draft", True): 8, ("target", False): 10, ("target", True): 4,
    }  # fmt: skip


def test_its_turns_have_their_share_among_those_of_the_turn(folder):
    turns = Record.read(folder).turns
    assert [(turn.drafted, turn.scored, turn.target) for turn in turns[0][0]] == [(5, 5, 7), (6, 5, None)]
    # Scores of turn 0: 2.5 and 3.5, twice each; the stranger one has the smaller share.
    assert [chain[0].share for chain in turns[0]] == [0.75, 0.25]


def test_what_is_planned_asks_for_what_such_a_chain_would(folder):
    """With the record's own decisions a chain that is built from its turns is the recorded one."""
    record = Record.read(folder)
    recorded = record.questions[0].chains[0]
    built = turned({"draft": 9, "target": 11}, [Turn(5, 5, 0.0, 7), Turn(6, 6, 0.0, None)], {0: 7}, True)
    moved = [Request(one.role, one.prompt + 1, one.seen, one.write) for phase in built for one in phase]
    assert [(one.role, one.prompt, one.write) for one in moved[:-1]] == [
        (one.role, one.prompt, one.write) for one in recorded.requests[:-1]
    ]


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_the_planned_rate_is_alpha_in_every_turn(folder, alpha):
    record = Record.read(folder)
    for arm in ("a1", "a1_sync"):
        questions = planned(record, arm, alpha, 4, 50)
        taken = [[bool(chain.phases[2 * t + 1]) for q in questions for chain in q.chains] for t in range(2)]
        for turn in taken:
            # Of two different scores a quarter cannot be had: shares are 0.25 and 0.75.
            wanted = 1.0 if alpha == 1 else 0.5 if arm == "a1" else alpha
            assert statistics.fmean(turn) == pytest.approx(wanted, abs=0.15)
    assert all(question.together for question in questions)


def test_one_model_alone_writes_what_the_chains_hold(folder):
    record = Record.read(folder)
    target, draft = (planned(record, arm, 0.0, 1, 3)[0] for arm in ("target", "draft"))
    assert [one.write for one in target.chains[0].requests] == [7 + 6]  # a chunk replaced and one accepted
    assert [one.write for one in draft.chains[0].requests] == [5 + 6]
    assert target.prompts == {"target": 12}
    longer = planned(record, "target", 0.0, 1, 3, replaces=False)[0]
    assert [one.write for one in longer.chains[0].requests] == [5 + 7 + 6]


def test_a_plan_is_the_same_for_the_same_seed(folder):
    record = Record.read(folder)
    one, two, other = (planned(record, "a1", 0.25, 8, 20, seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_after_a_replaced_chunk_the_runtimes_have_what_was_before_it():
    (draft, score), (write,), (after, _), _ = turned(
        PROMPTS, [Turn(5, 6, 0.0, None), Turn(4, 4, 0.0, None)], {0: 7}, True
    )
    assert draft == Request("draft", 10, 10, 5)
    assert score == Request("target", 18, 12)
    assert write == Request("target", 12, 12, 7)
    assert after == Request("draft", 17, 10, 4)


def test_after_a_continued_chunk_they_have_it_too():
    (_, _), (write,), (after, score), _ = turned(PROMPTS, [Turn(5, 6, 0.0, None), Turn(4, 4, 0.0, None)], {0: 7}, False)
    assert write == Request("target", 18, 18, 7)
    assert after == Request("draft", 22, 14, 4)  # the draft's last token was never sent to it
    assert score == Request("target", 29, 24)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("beam", 0.25, 4, 1), "unknown arm 'beam'"),
        (("a1", 1.5, 4, 1), r"lies in \[0, 1\], not 1.5"),
        (("a1", 0.25, 0, 1), "not 0 and 1"),
    ],
)
def test_bad_plans_are_refused(folder, arguments, says):
    with pytest.raises(ConfigError, match=says):
        planned(Record.read(folder), *arguments)


def test_a_run_of_one_model_cannot_be_planned_from(tmp_path):
    def write(question, sample, answer, at, text):
        name = {"question": question, "sample": sample}
        return [
            PromptEvent(question=question, call=call("draft", "prefill", at, 10, 0, 0)),
            ChunkEvent(**name, turn=0, author="draft", text="a", tokens=5, ended=True,
                       calls=(call("draft", "decode", at + 1, 10, 9, 5),)),
            ChainEvent(question=question, sample=sample, text=text, answer=answer, ending="ended", turns=1,
                       take_overs=0, started=at + 1, ended=at + 2),
        ]  # fmt: skip

    run(tmp_path / "run", [["1"]], write=write)
    record = Record.read(tmp_path / "run")
    assert record.questions == (Question((Request("draft", 10, 0),), (Chain(((Request("draft", 10, 9, 5),), ())),)),)
    with pytest.raises(ConfigError, match="plan from a run of a1"):
        planned(record, "a1", 0.25, 4, 1)


def test_requests_at_once_are_refused(tmp_path):
    def write(question, sample, answer, at, text):
        events = chain(question, sample, answer, at, text)
        events[4] = events[4].model_copy(update={"calls": (call("draft", "decode", at + 1, 10, 9, 5),)})
        return events

    run(tmp_path / "run", [["1"]], write=write)
    with pytest.raises(ConfigError, match="several requests under way at once"):
        Record.read(tmp_path / "run")


def test_an_interrupted_run_is_refused(folder):
    path = folder / "run.json"
    path.write_text(path.read_text().replace('"sessions": [', '"sessions": [\n    1.0,'))
    with pytest.raises(ConfigError, match="interrupted and gone on with"):
        Record.read(folder)
