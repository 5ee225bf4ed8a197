"""What happened, what it cost, and what was written in vain: counted once, and all of it."""

import pytest
import sglang as sgl

from a1_sgl.engine import Spent
from a1_sgl.errors import RuntimeFault
from a1_sgl.session import Backend, Query, Roles, run_chains
from a1_sgl.session.account import Account, call
from a1_sgl.testing import FakeEngine
from a1_sgl.types import PROGRAM, Chunk, ChunkEvent, DropEvent, LostEvent, Question, calls_of

QUESTION = Question(id="q", messages=())
SPENT = Spent("one", 10, 4, 3, 1.0, 2.0)


def chunk(text="a", ids=(1, 2), ended=False, start=1):
    return Chunk("draft", text, ids, ended, start)


@pytest.fixture
def account():
    return Account(QUESTION, None)


def drops(account):
    return [(event.tokens, event.reason) for event in account.events if isinstance(event, DropEvent)]


def test_a_listener_hears_everything_at_once():
    heard = []
    account = Account(QUESTION, heard.append)
    account.waste(call(SPENT, "draft", "decode"), "stopped", 0, 2)
    assert heard == account.events
    assert (heard[0].sample, heard[0].turn, heard[0].calls[0].completion_tokens) == (0, 2, 3)
    assert account.usage.dropped == account.usage.decode == {"draft": 3}


def test_a_chunk_is_dropped_with_the_last_branch_that_has_it(account):
    one = chunk()
    account.hold(one)
    account.hold(one)
    account.let_go(one, "pruned", 0, 0)
    assert drops(account) == []
    account.let_go(one, "redrawn", 0, 1)
    assert drops(account) == [(2, "redrawn")]


def test_equal_chunks_are_two(account):
    one, other = chunk(), chunk()
    assert one == other
    account.hold(one)
    account.hold(other)
    account.let_go(one, "pruned", 0, 0)
    account.let_go(other, "pruned", 1, 0)
    assert drops(account) == [(2, "pruned")] * 2


def test_an_end_token_was_decoded_too(account):
    one = chunk(ended=True)
    account.hold(one)
    account.let_go(one, "replaced", 0, 0)
    assert drops(account) == [(3, "replaced")]


def test_what_was_kept_of_a_chunk_takes_its_place(account):
    whole, kept = chunk("a b", (1, 2, 3)), chunk("a", (1,))
    account.hold(whole)
    account.swap(whole, kept)
    assert drops(account) == []
    account.let_go(kept, "pruned", 0, 0)
    assert drops(account) == [(1, "pruned")]


def backend(texts="1 + 1 = 2\n\n", **rest):
    return Backend(Roles.pair(FakeEngine(texts, name="one", **rest), FakeEngine(texts, name="two")))


def ran(body, on, samples=1):
    events = []

    @sgl.function
    def program(s, query):
        return run_chains(s, query, body)

    state = program.run(query=Query.of("q", samples, listener=events.append), backend=on, use_thread=False, stop="\n\n")
    return state.ret_value, events


def decoded(events):
    return sum(one.completion_tokens for one in calls_of(events))


def test_what_survives_in_another_branch_is_not_dropped():
    """Of two forks of a chain one is taken over; what they share, and what is kept, was not written in vain."""

    def body(chain):
        chain.draft(20)
        kept, given_up = chain.fork(), chain.fork()
        kept.draft(20)
        given_up.draft(20)
        given_up.discard("redrawn")
        chain.become(kept)

    result, events = ran(body, backend())
    (drop,) = [event for event in events if isinstance(event, DropEvent)]
    tokens = len("1 + 1 = 2\n\n")
    assert (drop.tokens, drop.reason, drop.author) == (tokens, "redrawn", "draft")
    assert result.usage.decode == {"draft": 3 * tokens, "target": 0}
    assert result.usage.dropped == {"draft": tokens}
    assert result.chains[0].text == "1 + 1 = 2\n\n" * 2


def test_a_chain_that_becomes_a_fork_of_another_gives_up_its_own_alone():
    def body(chain):
        chain.draft(20)
        first = chain.fork()
        chain.target(20)
        chain.become(first)

    result, events = ran(body, backend())
    assert [(e.author, e.reason) for e in events if isinstance(e, DropEvent)] == [("target", "pruned")]
    assert result.usage.dropped == {"target": len("1 + 1 = 2\n\n")}


def test_a_fork_that_is_forgotten_is_given_back():
    def body(chain):
        chain.draft(20)
        chain.fork().draft(20)

    result, events = ran(body, backend())
    assert [e.reason for e in events if isinstance(e, DropEvent)] == ["rolled back"]
    assert sum(result.usage.dropped.values()) == len("1 + 1 = 2\n\n")


def test_the_tokens_of_a_lost_chain_are_counted():
    """All it decoded is in no chain, whatever branch it was in when it broke off."""

    def body(chain):
        chain.draft(20)
        if chain.sample == 1:
            chain.append("and ")
            chain.fork().draft(20)
            raise RuntimeFault("no more")

    result, events = ran(body, backend(), samples=2)
    tokens = len("1 + 1 = 2\n\n")
    assert [lost.sample for lost in result.lost] == [1]
    assert isinstance(next(e for e in events if isinstance(e, LostEvent)), LostEvent)
    assert decoded(events) == sum(result.usage.decode.values()) == 3 * tokens
    assert result.usage.dropped == {"draft": 2 * tokens}
    assert {e.author for e in events if isinstance(e, DropEvent)} == {"draft", PROGRAM}


def test_a_generation_that_is_stopped_is_counted_by_what_there_was_of_it():
    def body(chain):
        fork = chain.fork()
        fork.begin(fork.roles.writer, 1000)
        fork.rate()  # meanwhile it is under way
        fork.discard()

    result, events = ran(body, backend("1 + 1 = 2 " * 50, delay=lambda call: 30.0 * (call.kind == "generate")))
    (drop,) = [event for event in events if isinstance(event, DropEvent)]
    assert drop.tokens == decoded(events) == result.usage.dropped["draft"] < 500
    assert not [event for event in events if isinstance(event, ChunkEvent)]


def test_roles_are_counted_and_runtimes_keep_their_names():
    def body(chain):
        chain.draft(20)
        chain.target(20)

    result, events = ran(body, backend())
    assert result.usage.decode == {"draft": 11, "target": 11}
    assert {(one.runtime, one.role) for one in calls_of(events)} == {("one", "draft"), ("two", "target")}
