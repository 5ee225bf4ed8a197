"""The simulator against what is known in closed form, and what must hold whatever is simulated."""

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a1_sgl.errors import ConfigError
from a1_sgl.evals.simulate.costs import Curves, Pair, Worker
from a1_sgl.evals.simulate.fleet import Arrivals, simulate
from a1_sgl.evals.simulate.load import Chain, Question, Request, Turn, turned
from a1_sgl.evals.speed.limits import chain_speed_up, saturated_speed_up

ALONE = Arrivals(in_flight=1)


def pair(draft=None, target=None, contention=0.0, network=0.0, **worker):
    flat = Curves(decode=((1, 1.0),))
    return Pair(
        draft=Worker(costs=draft or flat, **worker), target=Worker(costs=target or flat, **worker),
        contention=contention, network=network,
    )  # fmt: skip


def question(*chains, roles=("draft", "target"), prompt=10, together=False):
    return Question(tuple(Request(role, prompt, 0) for role in roles), tuple(chains), together)


def a1(turns, chunk, alpha, phase=0.0, prompt=10):
    """A chain of chunks of one length; every so many are replaced by the target's, spread evenly."""
    handed = {t: chunk for t in range(turns) if int((t + 1) * alpha + phase) > int(t * alpha + phase)}
    return Chain(turned({"draft": prompt, "target": prompt}, [Turn(chunk, chunk, 0.0, None)] * turns, handed, True))


def alone(role, tokens, prompt=10):
    return question(Chain(((Request(role, prompt, prompt, tokens),),)), roles=(role,))


# --- closed forms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_a_queue_of_one_place_waits_as_long_as_pollaczek_and_khinchin_say(load):
    """M/D/1: requests at random times, one served at a time, each in one second."""
    costs = Curves(decode=((1, 1.0),), request=1.0)
    count = 15_000
    ask = [Question((), (Chain(((Request("target", 5, 0),),)),)) for _ in range(count)]
    made = simulate(ask, pair(target=costs, running=1), Arrivals(in_flight=None, rate=load))
    wait = statistics.fmean(made.seconds["target", False]) - 1
    assert wait == pytest.approx(load / (2 * (1 - load)), rel=0.1)
    assert made.busy["target"] == pytest.approx(load, rel=0.03)


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5])
def test_one_chain_is_as_much_faster_as_its_costs_allow(alpha):
    """1 / (c + v + alpha): the draft costs a tenth of the target, and a chunk is read in a tenth of its time."""
    chunk, turns = 200, 40
    draft, target = Curves(decode=((1, 0.1),)), Curves(decode=((1, 1.0),), token=0.1)
    with_draft = simulate([question(a1(turns, chunk, alpha))], pair(draft, target), ALONE)
    base = simulate([alone("target", turns * chunk)], pair(draft, target), ALONE)
    assert base.wall / with_draft.wall == pytest.approx(chain_speed_up(0.1, 0.1, alpha), rel=0.02)


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5])
def test_a_target_that_is_never_idle_gains_what_its_costs_allow(alpha):
    """1 / (alpha + rho), with steps that cost by the token, so that rho is the same in every batch."""
    chunk, turns = 50, 20
    draft, target = Curves(decode=((1, 1e-4), (2, 2e-4))), Curves(decode=((1, 1.0), (2, 2.0)), token=0.1)
    chains = [question(a1(turns, chunk, alpha, phase=i * 0.618 % 1)) for i in range(100)]
    with_draft = simulate(chains, pair(draft, target), Arrivals(in_flight=64))
    base = simulate([alone("target", turns * chunk) for _ in range(100)], pair(draft, target), Arrivals(in_flight=64))
    bound = saturated_speed_up(alpha, 0.1)
    assert base.wall / with_draft.wall == pytest.approx(bound, rel=0.05)
    assert with_draft.busy["target"] > 0.98


@pytest.mark.parametrize("chains", [4, 64, 1024])
def test_a_barrier_costs_the_longest_of_its_chunks(chains):
    """Steps cost the same whatever their batch, and nothing else costs anything: a turn takes the longest chunk."""
    longest, turns = 40, 10
    lengths = [[(7919 * (i * turns + t) ** 2 + i + 31 * t) % longest + 1 for t in range(turns)] for i in range(chains)]
    made = [Chain(turned({"draft": 1, "target": 1}, [Turn(n, n, 0.0, None) for n in of], {}, True)) for of in lengths]
    costs = pair(Curves(decode=((1, 1.0),)), running=2048, capacity=10**8)
    sync = simulate([question(*made, prompt=1, together=True)], costs, Arrivals(in_flight=2048))
    free = simulate([question(*made, prompt=1)], costs, Arrivals(in_flight=2048))
    # The first token of a chunk comes from its prefill, which is free here.
    assert sync.wall == pytest.approx(sum(max(column) - 1 for column in zip(*lengths, strict=True)), abs=turns)
    assert free.wall == pytest.approx(max(sum(n - 1 for n in of) for of in lengths), abs=turns)
    if chains == 1024:  # the expected longest of so many uniform lengths is all but the longest there is
        expected = longest - sum((k / longest) ** chains for k in range(1, longest))
        assert sync.wall / turns == pytest.approx(expected - 1, abs=1.0)


def test_one_device_for_both_takes_their_times_together():
    draft, target = alone("draft", 1000), alone("target", 1000)
    apart = simulate([draft, target], pair(), Arrivals(in_flight=2))
    shared = simulate([draft, target], pair(contention=1.0), Arrivals(in_flight=2))
    assert apart.wall == pytest.approx(999, abs=2)
    assert shared.wall == pytest.approx(2 * 999, abs=5)


def test_the_network_is_paid_by_the_request():
    chain = a1(turns=10, chunk=5, alpha=0.5)
    there = simulate([question(chain)], pair(network=0.25), ALONE)
    here = simulate([question(chain)], pair(), ALONE)
    assert there.wall - here.wall == pytest.approx(0.25 * (len(chain.requests) + 1))  # two prompts at once


def test_two_targets_do_twice_the_work():
    work = [Question((), alone("target", 100).chains) for _ in range(64)]
    costs = pair(target=Curves(decode=((1, 1.0), (2, 2.0))))
    one, two = (simulate(work, costs, Arrivals(in_flight=64), targets=count) for count in (1, 2))
    assert one.wall / two.wall == pytest.approx(2, rel=0.02)


# --- what always holds ----------------------------------------------------------------------------------------

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@st.composite
def loads(draw):
    together = draw(st.booleans())

    def chain(of):
        taken = {t: draw(st.integers(1, 40)) for t in range(len(of)) if draw(st.booleans())}
        return Chain(
            turned({"draft": 7, "target": 9}, [Turn(n, n + 1, 0.0, None) for n in of], taken, draw(st.booleans()))
        )

    return [
        Question(
            (Request("draft", 7, 0), Request("target", 9, 0)),
            tuple(chain(draw(lengths)) for _ in range(draw(st.integers(1, 4)))),
            together,
        )
        for _ in range(draw(st.integers(1, 5)))
    ]


@settings(max_examples=60, deadline=None)
@given(loads(), st.integers(1, 8), st.integers(1, 3), st.integers(1, 5), st.sampled_from([640, 2000, 10**6]), st.data())
def test_every_token_is_computed_once_unless_it_was_given_up(load, in_flight, targets, running, capacity, data):
    rate = data.draw(st.sampled_from([None, 0.01, 10.0]))
    costs = Curves(decode=((1, 1.0), (4, 2.0)), token=0.01, step=0.1)
    prefill = data.draw(st.sampled_from([16, 8192]))
    made = simulate(
        load, pair(costs, costs, running=running, capacity=capacity, prefill=prefill),
        Arrivals(in_flight, rate), targets=targets,
    )  # fmt: skip
    requests = [one for q in load for one in (*q.prompt, *(r for chain in q.chains for r in chain.requests))]
    assert len(made.ended) == sum(len(q.chains) for q in load)
    assert len(made.latency) == len(load)
    assert made.total("written") == sum(one.write for one in requests)
    least = sum(one.prompt - min(one.seen, one.prompt - 1) for one in requests)
    assert made.total("read") == least + made.total("again")
    if capacity == 10**6 and targets == 1:
        assert made.total("again") == 0
    assert sum(len(of) for of in made.seconds.values()) == len(requests)
    assert all(0 <= share <= 1 + 1e-9 for share in made.busy.values())
    assert made.wall >= max(one.busy for of in made.tallies.values() for one in of) - 1e-6
    assert sum(one.sequences for of in made.tallies.values() for one in of) == sum(
        max(one.write - 1, 0) for one in requests
    )


@settings(max_examples=20, deadline=None)
@given(loads(), st.sampled_from([None, 0.1]))
def test_the_same_arguments_give_the_same_outcome(load, rate):
    made = [simulate(load, pair(contention=0.4), Arrivals(3, rate), seed=5) for _ in range(2)]
    assert made[0] == made[1]


def test_what_is_given_up_is_computed_again():
    """Two chains that do not fit together: each turn of one gives up the other's text."""
    chains = [a1(turns=10, chunk=40, alpha=0.0) for _ in range(2)]
    roomy = simulate([question(*chains)], pair(), Arrivals(in_flight=2))
    tight = simulate([question(*chains)], pair(capacity=520), Arrivals(in_flight=2))
    assert roomy.total("again") == 0
    assert tight.total("again") > 0
    assert tight.total("written") == roomy.total("written")


def test_fewer_places_than_chains_make_them_wait_in_line():
    chains = [alone("target", 10) for _ in range(6)]
    made = simulate(chains, pair(), Arrivals(in_flight=2))
    assert made.ended == pytest.approx((9.0, 9.0, 18.0, 18.0, 27.0, 27.0))


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda: simulate([], pair(), ALONE), "no question"),
        (lambda: simulate([alone("target", 5)], pair(), ALONE, targets=0), "at least one draft and one target"),
        (lambda: simulate([alone("target", 500)], pair(capacity=100), ALONE), "510 tokens .* target's capacity of 100"),
        (lambda: Arrivals(in_flight=0), "at least one chain must be in flight, not 0"),
        (lambda: Arrivals(rate=0.0), "above 0 a second, not 0"),
        (lambda: Arrivals(in_flight=None), "say how many"),
    ],
)
def test_what_cannot_be_simulated_is_refused(attempt, says):
    with pytest.raises(ConfigError, match=says):
        attempt()
