import pytest

from a1_sgl.cli.common import parameters
from a1_sgl.errors import ConfigError
from a1_sgl.evals.estimate import like, most
from a1_sgl.evals.recipes import HERE, RECIPES, find_recipe
from a1_sgl.evals.runner import Eval
from a1_sgl.evals.tasks import find_task

from .made import run


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_plan(name, recorded):
    recipe = find_recipe(name)
    said = dict(recipe.options)
    generated = said["task"] == "chain"
    plan = Eval(
        task=find_task(said["task"], None if generated else recorded / "benchmarks"),
        split=said.get("split", "test"), program=said["program"], runtime=None, chains=int(said["chains"]),
        questions=int(said["questions"]) if generated else None, alpha=float(said["alpha"]),
        sampling={"temperature": float(said.get("temperature", 0.6))}, parameters=parameters(None, name),
    )  # fmt: skip
    assert recipe.about
    assert set(recipe.models) == {"draft", "target"}
    assert len((HERE / f"{name}.yaml").read_text().splitlines()) <= 10
    estimate = most(plan)
    assert estimate.chains == len(plan.asked) * plan.chains
    if not generated:  # the paper's m = 16, 15 turns of 500 and 500 tokens
        assert estimate.decode == {"draft": 8000 * 7500, "target": 8000 * 7500}
        assert (plan.chains, plan.alpha, plan.sampling["temperature"]) == (16, 0.4, 0.8)


def test_other_models_are_refused():
    recipe = find_recipe("r1-llama-8b-qwq-32b")
    recipe.check({"draft": "DeepSeek-R1-Distill-Llama-8B", "target": "QwQ-32B"})
    with pytest.raises(ConfigError, match=r"is for target Qwen/QwQ-32B, and the target runtime serves pocket"):
        recipe.check({"draft": "DeepSeek-R1-Distill-Llama-8B", "target": "pocket"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is no YAML"),
        ("- 1", "holds no options"),
        ("tsak: chain", "a recipe has no 'tsak'; it has about"),
        ("set: [turns=3]", "set is a mapping"),
        ("task: [chain]", "task takes one value"),
    ],
)
def test_a_bad_recipe_is_refused(text, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        find_recipe(str(tmp_path / "mine.yaml"))


def test_the_command_line_goes_before_a_recipe_value_by_value(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("levels: 3:5\nset: {turns: 3, take_over: continue, deep: true}")
    assert find_recipe(str(path)).options == {"levels": "3:5"}
    assert parameters(["turns=4"], str(path)) == {"turns": 4, "take_over": "continue", "deep": True}


def test_unknown_recipes():
    with pytest.raises(ConfigError, match="unknown recipe 'magic'; known: "):
        find_recipe("magic")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_recipe("none.yaml")


def plan(**changes):
    return Eval(**{
        "task": find_task("chain"), "split": "test", "program": "a1", "runtime": None, "questions": 10, "chains": 6,
        "alpha": 0.25, "sampling": {"temperature": 0.6},
    } | changes)  # fmt: skip


def test_a_run_scales_what_another_took(tmp_path):
    done = run(tmp_path / "run", [["1", "1"]] * 3)
    found = like(plan(), done)
    assert (found.questions, found.chains, found.bound) == (10, 60, False)
    assert found.requests == 3 * 60
    assert found.decode == {"draft": 3 * 60, "target": 2 * 3 * 60}
    assert found.seconds == pytest.approx(10 * done.wall())
    with pytest.raises(ConfigError, match="is a run of a1, and says nothing of direct"):
        like(plan(program="direct", runtime="target", alpha=None), done)


def test_the_most_a_run_can_take():
    direct = most(plan(program="direct", runtime="draft", alpha=None))
    assert (direct.requests, direct.decode, direct.seconds) == (60, {"draft": 60 * 256}, None)
    small = most(plan(parameters={"turns": 3, "draft_tokens": 10, "target_tokens": 20}))
    assert (small.requests, small.decode) == (60 * 9, {"draft": 60 * 30, "target": 60 * 60})
