"""Three real runtimes for the whole session: the pocket draft and target, and a stranger with another tokenizer."""

import hashlib
import itertools
import re
import signal
import weakref
from pathlib import Path

import pytest
from hypothesis import settings

from a1_sgl.launch.cpu_engine import enable
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.launch.runtimes import Spec, serve

enable()  # before whichever test imports sglang first

# A shell has what it starts in the background ignore interrupts, and tests interrupt themselves and their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Same examples everywhere, and no limit on an example's time: a busy machine is not a wrong result.
settings.register_profile("a1", deadline=None, derandomize=True)
settings.load_profile("a1")


@pytest.fixture
def instances(monkeypatch):
    """`instances(cls)`: those that are made from now on and still live.

    To ask the garbage collector for them would hand out what other threads have half made.
    """

    def watch(cls):
        made, begin = weakref.WeakSet(), cls.__init__

        def init(self, *arguments, **named):
            made.add(self)
            begin(self, *arguments, **named)

        monkeypatch.setattr(cls, "__init__", init)
        return made

    return watch


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    """A random model whose tokenizer and chat template are unlike the pocket pair's."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from a1_sgl.evals.chain import problems

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = ["\n\n".join((p.text, *p.lines)) for p in itertools.islice(problems("train", 5), 200)]
    trainer = trainers.BpeTrainer(
        vocab_size=430, special_tokens=["<s>", "</s>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", model_max_length=512,
        chat_template="<s>{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] ",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=448, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("stranger")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def runtimes(stranger, tmp_path_factory):
    """Where the three runtimes listen, by name."""
    specs = [*pocket_specs(), Spec("stranger", str(stranger))]
    with serve(specs, tmp_path_factory.mktemp("logs")) as running:
        yield {one.name: one for one in running}


@pytest.fixture
def engine():
    """`engine(url, name, **arguments)`: an engine on a runtime, closed when the test is over."""
    from a1_sgl.engine import SGLang, wait

    connected = []

    def connect(url, name="target", **arguments):
        connected.append(wait(SGLang.connect(url, name, **arguments)))
        return connected[-1]

    yield connect
    for one in connected:
        wait(one.close())


@pytest.fixture
def draft(runtimes, engine):
    """The pocket draft as an engine."""
    return engine(runtimes["draft"].url, "draft")


@pytest.fixture
def target(runtimes, engine):
    """The pocket target as an engine."""
    return engine(runtimes["target"].url, "target")


@pytest.fixture
def other(runtimes, engine):
    """The stranger as an engine."""
    return engine(runtimes["stranger"].url, "target")


@pytest.fixture
def pair(runtimes):
    """The backend of a pair: the pocket draft and target."""
    from a1_sgl.session import Backend

    with Backend.connect(runtimes["draft"].url, runtimes["target"].url) as connected:
        yield connected


@pytest.fixture
def mixed(runtimes):
    """The pocket draft with the stranger as its target."""
    from a1_sgl.session import Backend

    with Backend.connect(runtimes["draft"].url, runtimes["stranger"].url) as connected:
        yield connected


@pytest.fixture
def single(target):
    """The backend of one runtime, the pocket target."""
    from a1_sgl.session import Backend, Roles

    return Backend(Roles.alone(target))


@pytest.fixture(scope="session")
def scripted():
    """`scripted(hard, faults)`: fakes on task chain; the draft fails a share of questions, and the target sees it."""
    from a1_sgl.session import Backend, Roles
    from a1_sgl.testing import FakeEngine

    def answer(prompt, off=0):
        start, *steps = re.findall(r"(Start with|Add|Subtract|Multiply by) (\d+)", prompt)
        value = int(start[1])
        for word, number in steps:
            by = int(number)
            value = value + by if word == "Add" else value - by if word == "Subtract" else value * by
        return f"The answer is \\boxed{{{value + off}}}."

    def number(text):  # the same in every process, and as good as uniform on [0, 1)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48

    def asked(text):
        return text[text.index("Start with") : text.index("What is")]

    def connect(hard=0.3, faults=None):
        def wrong(prompt):
            return number(asked(prompt)) < hard

        def score(before, chunk):
            return -0.5 - 3.0 * wrong(before) - number(asked(before) + "/score")

        draft = FakeEngine(lambda call: answer(call.prompt, wrong(call.prompt)), name="draft", model="d")
        target = FakeEngine(lambda call: answer(call.prompt), name="target", model="t", scores=score, faults=faults)
        return Backend(Roles.pair(draft, target))

    return connect


@pytest.fixture(scope="session")
def reference():
    """`reference(folder, ids)`: log-probabilities of ids[1:] by transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    models = {}

    def score(folder: str | Path, ids):
        if folder not in models:
            models[folder] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = models[folder](torch.tensor([ids])).logits[0].log_softmax(-1)
        return [logits[i, token].item() for i, token in enumerate(ids[1:])]

    return score


@pytest.fixture(scope="session")
def questions():
    """Test questions of task chain."""
    from a1_sgl.evals.tasks import find_task

    task = find_task("chain")
    return task.questions("test", 24, 11)


@pytest.fixture(scope="session")
def recorded():
    """Real benchmarks and recorded chains, beside the checkout where there are any."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real benchmarks and chains of ../shared/data, which are not part of the project")
    return folder


@pytest.fixture(scope="session")
def benchmarks(recorded):
    """Folder of the real benchmarks."""
    return recorded / "benchmarks"
