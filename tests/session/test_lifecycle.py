"""Whatever a program does and however it is stopped: it ends, and nothing of it runs on."""

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import sglang as sgl
from sglang.lang.interpreter import StreamExecutor

from a1_sgl.conformal import Gate, ScoreBank, marginal
from a1_sgl.engine import Scope, SGLang, submit, wait
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault
from a1_sgl.programs import a1, a1_lookahead, direct, self_reject
from a1_sgl.session import Backend, Group, Query, Roles, aside, run_chains, stoppable
from a1_sgl.testing import FakeEngine
from a1_sgl.types import ChainEvent, ChunkEvent, DropEvent, LostEvent

LONG = {"max_tokens": 400, "ignore_eos": True, "temperature": 0.6}


class Constant(Gate):
    """A gate with a constant verdict."""

    def __init__(self, take_over):
        super().__init__(0.5, ScoreBank([1e9] * 99 if not take_over else [-1e9] * 99), online=False)


class Breaks(Constant):
    """A gate that fails at the draws it is told."""

    def __init__(self, *at, take_over=True):
        super().__init__(take_over)
        self.at, self.asked = at, 0

    def __call__(self, score, **where):
        self.asked += 1
        if self.asked - 1 in self.at:
            raise RuntimeError("gate fell over")
        return super().__call__(score, **where)


def idle(*urls):
    """Waits until the runtimes run nothing: each refuses to flush its cache while it does."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            for url in urls:
                urllib.request.urlopen(urllib.request.Request(f"{url}/flush_cache", method="POST"), timeout=30)
            return True
        except urllib.error.HTTPError:  # 400
            time.sleep(0.1)
    return False


def fakes(**rest):
    """The backend of a pair without models, and its two engines."""
    draft, target = (
        FakeEngine("1 + 1 = 2\n\n", name="draft", **rest),
        FakeEngine("so 2\n\n", name="target", scores=-0.5, **rest),
    )
    return Backend(Roles.pair(draft, target)), draft, target


def of(events, kind, **where):
    return [e for e in events if isinstance(e, kind) and all(getattr(e, k) == v for k, v in where.items())]


# --- interrupts -----------------------------------------------------------------------------------------------

START = """
import sys
import threading

from a1_sgl.conformal import marginal
from a1_sgl.programs import *
from a1_sgl.session import Backend

draft, target, samples = sys.argv[1], sys.argv[2], int(sys.argv[3])
gate = marginal(0.3)
asked = "Start with 17. Add 8. Multiply by 3. Subtract 21. What is the result?"
begun = []


def told(event):
    if not begun:
        begun.append(event)
        threading.Timer(0.5, print, ("running",), {"flush": True}).start()


long = {"question": asked, "ignore_eos": True, "temperature": 0.6, "samples": samples, "listener": told}
"""

RUNS = {
    "with": """
with Backend.connect(draft, target) as pair:
    while True:  # the pocket pair's context is soon full
        {run}
""",
    "without": """
pair = Backend.connect(draft, target)
while True:
    {run}
""",
}
PROGRAM = {
    "direct": "direct.run(backend=pair, max_tokens=100_000, **long)",
    "a1": "a1.run(backend=pair, gate=gate, draft_tokens=100_000, **long)",
    "a1_lookahead": "a1_lookahead.run(backend=pair, gate=gate, turns=999, draft_tokens=2, **long)",
    "self_reject": "self_reject.run(backend=pair, gate=gate, draft_tokens=100_000, **long)",
    "beam_search": "beam_search.run(backend=pair, draft_tokens=100_000, **long)",
}


def interrupted(script, *arguments):
    """Starts `script`, interrupts it once it runs, and returns its exit status and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "running\n", process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)  # that it ends at all; nothing hangs on how fast
    finally:
        process.kill()
        process.wait()
    return process.returncode, errors


@pytest.fixture
def urls(runtimes):
    found = runtimes["draft"].url, runtimes["target"].url
    assert idle(*found)
    return found


SLOW = pytest.mark.slow  # each is a process that imports SGLang


@pytest.mark.parametrize(
    ("samples", "way"),
    [(1, "with"), (64, "without"), *(pytest.param(n, way, marks=SLOW) for n in (1, 4, 16, 64) for way in RUNS)],
)
def test_ctrl_c_ends_a_script_however_many_chains(samples, way, urls):
    status, errors = interrupted(START + RUNS[way].format(run=PROGRAM["direct"]), *urls, samples)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert status in (1, -signal.SIGINT)
    assert "Unclosed" not in errors
    assert idle(*urls)


@pytest.mark.parametrize(
    "name", ["a1_lookahead", *(pytest.param(name, marks=SLOW) for name in sorted(set(PROGRAM) - {"direct"}))]
)
def test_ctrl_c_ends_a_script_of_any_program(name, urls):
    status, errors = interrupted(START + RUNS["with"].format(run=PROGRAM[name]), *urls, 4)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert status in (1, -signal.SIGINT)
    assert "Unclosed" not in errors
    assert idle(*urls)


def test_ctrl_c_ends_the_readmes_ten_lines(urls):
    """Wherever it meets them: while they connect, run or close."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    code = re.search(r"```python\n(from a1_sgl.*?)```", text, re.DOTALL).group(1)
    for port, url in zip((30001, 30002), urls, strict=True):
        code = code.replace(f"http://127.0.0.1:{port}", url)
    script = (
        "import os, threading\nimport a1_sgl.programs\n"
        "threading.Timer(1.0, os.write, (1, b'running\\n')).start()\n"
        f"code = compile({code!r}, 'README.md', 'exec')\n"
        "while True:\n    exec(code, {'print': lambda *_: None})\n"
    )
    status, errors = interrupted(script)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert status in (1, -signal.SIGINT)
    assert idle(*urls)


def interrupt_when(begun):
    """Interrupts the main thread once `begun()`, as a notebook's stop button does."""

    def work():
        while not begun():
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=work, daemon=True).start()


def test_after_an_interrupt_the_same_backend_works(single, questions):
    events = []
    interrupt_when(lambda: events)
    with pytest.raises(KeyboardInterrupt):
        direct.run(question=questions[0], samples=4, backend=single, listener=events.append, **LONG)
    single.flush_cache()  # the runtime refuses while a request is under way
    result = direct.run(question=questions[0], samples=2, backend=single, max_tokens=8).ret_value
    assert len(result.chains) == 2


def test_an_interrupted_program_is_told_in_every_chain(pair, questions):
    """Bodies see it where they wait, so that what they hold is given back."""
    events, left = [], []

    def body(chain):
        try:
            chain.draft(400, ignore_eos=True)
        finally:
            left.append(chain.sample)

    @sgl.function
    def program(s, query):
        return run_chains(s, query, body)

    interrupt_when(lambda: events)
    with pytest.raises(KeyboardInterrupt):
        program.run(query=Query.of(questions[0], 3, listener=events.append), backend=pair, use_thread=False)
    assert sorted(left) == [0, 1, 2]
    assert not of(events, ChainEvent)
    pair.flush_cache()


# --- what fails in the middle ---------------------------------------------------------------------------------


def seen_forks(monkeypatch):
    """Every group that is made, so that what it has left can be looked at."""
    groups = []
    begin = Group.__init__

    def keep(self, *given):
        begin(self, *given)
        groups.append(self)

    monkeypatch.setattr(Group, "__init__", keep)
    return groups


@pytest.mark.parametrize("program", [self_reject, a1_lookahead, a1], ids=lambda one: one.name)
def test_a_step_that_raises_leaves_no_fork(program, monkeypatch):
    """Its chain is lost, its siblings finish, and nobody holds a fork any more."""
    groups = seen_forks(monkeypatch)
    backend, draft, target = fakes(delay=0.02)
    own = {"take_over": "resample"} if program is a1 else {}
    result = program.run(
        question="q", samples=3, turns=3, gate=Breaks(4, take_over=program is not a1_lookahead), backend=backend,
        stop=["\n\n"], **own,
    ).ret_value  # fmt: skip
    assert len(result.chains) == 2
    (lost,) = result.lost
    assert re.fullmatch(r"RuntimeError: gate fell over \(.*test_lifecycle\.py:\d+\)", lost.error)
    assert all(not group._forks for group in groups)
    assert draft.running == target.running == 0


RAISES = """
from a1_sgl.conformal import Gate, ScoreBank
from a1_sgl.programs import a1_lookahead, self_reject
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine


class Breaks(Gate):
    def __call__(self, score, **where):
        raise RuntimeError("gate fell over")


pair = Backend(Roles.pair(FakeEngine("1 + 1 = 2\\n\\n", name="draft"), FakeEngine(name="target")))
for program in (self_reject, a1_lookahead):
    try:
        program.run(question="q", samples=2, gate=Breaks(0.5, ScoreBank()), backend=pair)
    except Exception as error:
        print(error)
raise KeyboardInterrupt
"""


def test_after_a_step_that_raises_the_process_ends():
    done = subprocess.run([sys.executable, "-c", RAISES], capture_output=True, text=True, timeout=120)
    assert done.stdout.count("gate fell over") == 2
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def test_a_body_that_goes_on_after_a_fault_ends():
    """It catches what a runtime could not do, and writes on."""

    def faults(call):
        return RuntimeFault("out of memory") if call.kind == "generate" and call.number % 2 else None

    backend, draft, _ = fakes(faults=faults)

    def body(chain):
        written = 0
        while written < 3:
            try:
                chain.draft(20)
                written += 1
            except RuntimeFault:
                continue
        chain.end_turn()

    @sgl.function
    def program(s, query):
        return run_chains(s, query, body)

    result = program.run(query=Query.of("q", 3), backend=backend, use_thread=False, stop=["\n\n"]).ret_value
    assert [chain.text for chain in result.chains] == ["1 + 1 = 2\n\n" * 3] * 3
    assert draft.running == 0


def test_a_body_that_goes_on_after_it_was_stopped_ends(pair, questions):
    """Nothing it asks for is done any more."""
    tries = []

    def body(chain):
        chain.stop()
        for _ in range(3):
            try:
                chain.draft(20)
            except ChainAborted:
                tries.append(chain.sample)
        chain.draft(20)

    @sgl.function
    def program(s, query):
        return run_chains(s, query, body)

    with pytest.raises(ChainAborted):
        program.run(query=Query.of(questions[0], 2), backend=pair, use_thread=False)
    assert sorted(tries) == [0, 0, 0, 1, 1, 1]
    assert pair.roles.writer.engine.available


def test_a_runtime_that_is_a_fault_at_the_prompt_says_so():
    backend, _, _ = fakes(faults=lambda call: RuntimeFault("no memory") if call.kind == "prefill" else None)
    with pytest.raises(RuntimeFault, match="no memory"):
        direct.run(question="q", backend=backend)


def test_closing_a_group_with_forks_under_way_aborts_them(pair, questions):
    events = []

    @sgl.function
    def program(s, query):
        with Group(s, query) as group:
            fork = group.chains[0].fork()
            fork.begin(fork.roles.writer, 400, ignore_eos=True)
            fork.rate()  # meanwhile it is under way
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        program.run(query=Query.of(questions[0], 2, listener=events.append), backend=pair, use_thread=False)
    pair.flush_cache()  # the runtimes refuse while a request is under way
    (drop,) = of(events, DropEvent)
    assert (drop.author, drop.reason) == ("draft", "rolled back")
    assert drop.tokens < 400


# --- stopping -------------------------------------------------------------------------------------------------


def test_a_streaming_call_that_is_stopped_is_an_aborted_chain(single):
    @sgl.function
    def program(s):
        s += "5 + 5 = "
        s += sgl.gen("said", max_tokens=400, ignore_eos=True)

    with stoppable() as handle:
        state = program.run(backend=single, stream=True, temperature=0.6)
        pieces = state.text_iter("said")
        next(pieces)
        handle.stop()
        list(pieces)
        assert isinstance(state.error(), ChainAborted)
    single.flush_cache()


def test_a_stream_of_an_engine_that_is_stopped_says_so(target):
    import numpy as np

    from a1_sgl.engine import Request

    scope, pieces = Scope(), []

    async def listen():
        async for piece in target.stream(
            Request(np.array([5, 6, 7], np.int32), scope), {"max_new_tokens": 400, "ignore_eos": True}
        ):
            pieces.append(piece)
            scope.stop()

    try:
        wait(listen())
        assert pieces[-1].aborted
    except ChainAborted:
        pass
    assert pieces
    wait(target.flush())


def test_a_backend_that_is_aborted_stops_what_is_under_way_and_takes_no_more(single, questions):
    events = []

    def told(event):
        events.append(event)
        asyncio.get_running_loop().call_later(0.2, single.abort)

    with pytest.raises(ChainAborted):
        direct.run(question=questions[0], samples=4, backend=single, listener=told, **LONG)
    assert not of(events, ChainEvent)
    wait(single.roles.writer.engine.flush())
    with pytest.raises(ChainAborted):
        direct.run(question=questions[0], backend=single)


def test_a_chain_that_is_late_is_lost_and_the_others_are_not(runtimes, questions):
    def body(chain):
        if chain.sample == 1:
            while True:
                chain.drop(chain.draft(400, ignore_eos=True))
        chain.draft(4)
        chain.end_turn()

    @sgl.function
    def program(s, query):
        return run_chains(s, query, body)

    with Backend.connect(target=runtimes["target"].url, deadline=1.5) as single:
        result = program.run(query=Query.of(questions[0], 3), backend=single, use_thread=False).ret_value
        assert [chain.sample for chain in result.chains] == [0, 2]
        assert [(one.sample, one.error) for one in result.lost] == [(1, "RuntimeFault: not finished within 1.5 s")]
        assert result.usage.dropped["target"] > 0
        single.flush_cache()


@pytest.mark.parametrize("deadline", [0, -1.0])
def test_a_deadline_that_is_over_at_once_is_refused(deadline):
    with pytest.raises(ConfigError, match="deadline must be above 0 s"):
        Backend(Roles.alone(FakeEngine()), deadline=deadline)


# --- what it takes --------------------------------------------------------------------------------------------


def test_chains_take_no_thread_and_no_executor_before_they_are_admitted(instances):
    executors, threads, most = instances(StreamExecutor), threading.active_count(), [0, 0]
    backend = Backend(Roles.alone(FakeEngine("1 + 1 = 2\n\n", delay=0.005)), in_flight=4)
    current = set()

    def body(chain):
        current.add(chain.sample)
        assert len(current) <= 4
        chain.draft(20)
        most[0] = max(most[0], threading.active_count() - threads)
        if chain.sample % 20 == 0:
            gc.collect()
            most[1] = max(most[1], len(executors))
        chain.draft(20)
        current.remove(chain.sample)

    @sgl.function
    def program(s, query):
        return run_chains(s, query, body)

    result = program.run(query=Query.of("q", 200), backend=backend, use_thread=False, stop=["\n\n"]).ret_value
    assert len(result.chains) == 200
    assert most[0] <= 1  # the loop's own, if it was not there before
    assert most[1] <= 4 + 1  # the program's own state
    gc.collect()
    assert len(executors) <= 1


def test_real_chains_take_no_thread_either(runtimes, questions):
    with Backend.connect(target=runtimes["target"].url, in_flight=4) as single:
        direct.run(question=questions[0], backend=single, max_tokens=4)
        threads, most = threading.active_count(), []

        def told(event):
            most.append(threading.active_count() - threads)

        result = direct.run(question=questions[0], samples=60, backend=single, max_tokens=4, listener=told).ret_value
        assert len(result.chains) == 60
        assert max(most) <= 0


def test_a_program_inside_a_body(pair, questions):
    """A nested program shares the backend's places with its own, and its chains are its own."""
    answers = []

    def body(chain):
        inner = direct.run(question=questions[1], samples=2, backend=pair, max_tokens=8).ret_value
        answers.append(len(inner.chains))
        chain.draft(8)

    @sgl.function
    def outer(s, query):
        return run_chains(s, query, body)

    result = outer.run(query=Query.of(questions[0], 2), backend=pair, use_thread=False).ret_value
    assert (len(result.chains), answers) == (2, [2, 2])


def test_a_plain_run_of_the_function_from_any_thread(pair, questions):
    """What SGLang's own ``run`` does, without the program around it, and with its worker thread."""
    found = []

    def work():
        query = Query.of(questions[0], 3)
        sampling = {"temperature": 0.6, "stop": ["\n\n"]}
        for rest in ({}, {"use_thread": False}):
            state = a1.function.run(query=query, gate=marginal(0.3), turns=2, backend=pair, **sampling, **rest)
            found.append(state.ret_value)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [len(result.chains) for result in found] == [3, 3]


def test_the_backend_may_be_sglangs_default(pair, questions):
    sgl.set_default_backend(pair)
    try:
        state = a1.run(question=questions[0], gate=marginal(0.3), samples=1, turns=1, draft_tokens=8)
    finally:
        sgl.set_default_backend(None)
    assert len(state.ret_value.chains) == 1


def test_what_blocks_goes_aside(pair, questions):
    """A body that blocks in a thread of its own holds no other chain up."""
    both = threading.Barrier(2)

    def body(chain):
        aside(both.wait, 60)
        chain.draft(4)

    @sgl.function
    def program(s, query):
        return run_chains(s, query, body)

    result = program.run(query=Query.of(questions[0], 2), backend=pair, use_thread=False).ret_value
    assert len(result.chains) == 2


# --- connecting and refusing ----------------------------------------------------------------------------------


def test_a_second_runtime_that_cannot_be_reached_leaves_nothing_of_the_first(runtimes, monkeypatch):
    made, closed = [], []
    connect, close = SGLang.connect.__func__, SGLang.close

    async def connected(cls, *given, **rest):
        made.append(await connect(cls, *given, **rest))
        return made[-1]

    async def let_go(self):
        closed.append(self)
        await close(self)

    monkeypatch.setattr(SGLang, "connect", classmethod(connected))
    monkeypatch.setattr(SGLang, "close", let_go)
    with pytest.raises(RuntimeFault, match=r"target runtime http://127\.0\.0\.1:9: .* is the runtime up"):
        Backend.connect(runtimes["draft"].url, "http://127.0.0.1:9")
    assert len(made) == 1
    assert closed == made
    assert made[0].transport._session is None


@pytest.mark.parametrize(
    "named", [{}, {"verifier": "http://127.0.0.1:9"}, {"draft": "http://127.0.0.1:9", "verifier": "http://127.0.0.1:9"}]
)
def test_runtimes_that_make_no_backend_are_refused(named):
    with pytest.raises(ConfigError, match="name the runtimes"):
        Backend.connect(**named)


@pytest.mark.parametrize(
    "named",
    [
        {"draft": "http://127.0.0.1:9", "target": "http://127.0.0.1:9"},
        {"draft": ["http://127.0.0.1:8", "http://127.0.0.1:9/"], "target": ["http://127.0.0.1:9"]},
    ],
)
def test_one_runtime_is_not_both_draft_and_target(named, monkeypatch):
    closed = []

    class Closing(FakeEngine):
        async def close(self):
            closed.append(self.name)

    async def connect(url, name, settings):
        return Closing(name=name)

    monkeypatch.setattr(SGLang, "connect", connect)
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:9 is named as draft and as target; a model that"):
        Backend.connect(**named)
    assert len(closed) == sum(1 if isinstance(urls, str) else len(urls) for urls in named.values())


@pytest.mark.parametrize("limit", [0, -1])
def test_no_chain_in_flight_is_refused(limit):
    with pytest.raises(ConfigError, match="at least one chain must be in flight"):
        Backend(Roles.alone(FakeEngine()), in_flight=limit)


def test_select_scores_each_choice(single):
    @sgl.function
    def program(s, method):
        s += "5 + 5 = 10\n\n10 + "
        s += sgl.select("word", ["5", "zebra"], choices_method=method)

    for method in (sgl.token_length_normalized, sgl.greedy_token_selection):
        state = program.run(method=method, backend=single)
        assert state["word"] == "5"
        assert state.text().endswith("10 + 5")


def test_rehearsals_use_other_seeds_than_the_first_chain():
    engine = FakeEngine("1 + 1 = 2\n\n", name="draft")
    backend = Backend(Roles.pair(engine, FakeEngine(name="target", scores=-0.5)))
    a1.run(
        question="q", gate=marginal(0.01), samples=2, turns=1, presample=3, backend=backend, seed=3, stop=["\n\n"],
    )  # fmt: skip
    seeds = [call.sampling["sampling_seed"] for call in engine.calls if call.kind == "generate"]
    assert len(set(seeds)) == len(seeds) == 5


def test_a_rehearsal_that_fails_is_left_out():
    def faults(call):
        return RuntimeFault("out of memory") if call.kind == "generate" and call.number in (1, 2) else None

    engine = FakeEngine("1 + 1 = 2\n\n", name="draft", faults=faults)
    gate = marginal(0.5, online=False)
    backend = Backend(Roles.pair(engine, FakeEngine(name="target")))
    result = a1.run(question="q", gate=gate, samples=1, turns=1, presample=4, backend=backend, stop=["\n\n"]).ret_value
    assert len(gate.bank) == 2
    assert len(result.chains) == 1


def test_admission_gives_every_chain_its_turn_across_questions():
    backend = Backend(Roles.alone(FakeEngine("1\n\n", delay=0.001)), in_flight=3)
    most = [0]

    def body(chain):
        current.add((chain.question.id, chain.sample))
        most[0] = max(most[0], len(current))
        chain.draft(9)
        current.remove((chain.question.id, chain.sample))

    current = set()

    @sgl.function
    def program(s, query):
        return run_chains(s, query, body)

    from a1_sgl.engine import stack

    running = [
        submit(stack(program.run, query=Query.of(f"q{i}", 5), backend=backend, use_thread=False)) for i in range(4)
    ]
    assert [len(one.result().ret_value.chains) for one in running] == [5] * 4
    assert most == [3]


def test_events_of_a_lost_chain_are_whole():
    backend, _, _ = fakes()
    events = []
    result = self_reject.run(
        question="q", samples=2, turns=2, gate=Breaks(1, take_over=False), backend=backend, stop=["\n\n"],
        listener=events.append,
    ).ret_value  # fmt: skip
    (lost,) = of(events, LostEvent)
    written = sum(e.tokens for e in of(events, ChunkEvent, sample=lost.sample))
    dropped = sum(e.tokens for e in of(events, DropEvent, sample=lost.sample))
    assert written == dropped > 0
    assert result.usage.dropped == {"draft": written}
