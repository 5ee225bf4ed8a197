"""Launch recipes: what they may say, where their runtimes go, whether they fit, and the commands that come of it."""

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from a1_sgl import cli as command_line
from a1_sgl.errors import A1Error, ConfigError
from a1_sgl.evals import recipes as evals
from a1_sgl.launch.cpu_engine import has_gpu
from a1_sgl.launch.devices import devices, planned
from a1_sgl.launch.fit import Load, fits
from a1_sgl.launch.flags import check
from a1_sgl.launch.gateway import Gateway
from a1_sgl.launch.layout import APART, MOST, lay_out, specs
from a1_sgl.launch.recipes import RECIPES, Recipe, find_recipe, recipe_of
from a1_sgl.launch.runtimes import Spec
from a1_sgl.launch.shapes import PUBLISHED
from a1_sgl.launch.sizes import size_of

QWEN, QWQ = "Qwen/Qwen2.5-7B-Instruct", "Qwen/QwQ-32B"


def a1(*arguments):
    """The command in this process: its exit status, what it printed, and its error."""
    command_line._register()
    done = CliRunner(env={"COLUMNS": "200"}).invoke(command_line.app, arguments)
    return done.exit_code, done.stdout, done.exception if isinstance(done.exception, A1Error) else None


def gpu_tool(folder, monkeypatch, says, status=0, name="nvidia-smi"):
    """A machine whose driver's tool says that."""
    tool = folder / name
    (folder / "said").write_text(says)
    tool.write_text(f"#!/bin/sh\ncat {folder}/said\nexit {status}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tool


def gpus_of(recipe):
    return 1 + max((gpu for part in recipe.parts.values() for gpu in part.devices), default=0)


def option(spec, name):
    """The value after a flag of a spec."""
    return spec.flags[spec.flags.index(name) + 1] if name in spec.flags else None


# --- what comes with the package ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_sglangs_own_parsers_take_every_flag_of_every_recipe(name):
    from sglang_router.launch_router import parse_router_args

    recipe = find_recipe(name)
    assert recipe.about
    for gpus in (planned(f"{gpus_of(recipe)}x80"), []):
        for spec in specs(recipe, gpus):
            if isinstance(spec, Gateway):
                parse_router_args(spec.command(30_000, bool(gpus))[3:])
            else:
                check(spec)


def test_a_flag_that_sglang_does_not_take_is_refused_in_its_words():
    with pytest.raises(ConfigError, match=r"target: SGLang 0\.5.* does not take its flags: .*--context-lenght 8"):
        check(Spec("target", "m", ("--context-lenght", "8")))
    with pytest.raises(ConfigError, match="invalid choice: 'fastest'"):
        check(Spec("target", "m", ("--attention-backend", "fastest")))


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("pocket")])
def test_what_a_recipe_serves_fits_the_machine_it_is_for(name):
    recipe = find_recipe(name)
    memory = 24 if name == "one-gpu" else 80
    for fit in fits(recipe, planned(f"{gpus_of(recipe)}x{memory}"), Load(4, 8000), 1000):
        assert fit.state == "ok", fit


@pytest.mark.parametrize("name", sorted(set(RECIPES) & set(evals.RECIPES)))
def test_recipes_of_one_name_are_for_the_same_models(name):
    wanted = evals.find_recipe(name).models
    served = {role: part.model for role, part in find_recipe(name).parts.items()}
    assert {role: Path(model).name for role, model in served.items()} == {
        role: Path(model).name for role, model in wanted.items()
    }


def test_models_of_recipes_are_known_without_a_hub():
    named = {part.model for name in RECIPES for part in find_recipe(name).parts.values()}
    assert {model for model in named if not Path(model).is_dir()} <= set(PUBLISHED)


# --- what a recipe may say ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("about: nothing", "it serves nothing; give it a draft, a target or both"),
        ("- 1", "is no launch recipe: it is a mapping"),
        ("draft: {modle: x}", "draft.modle is nothing that a recipe has; here it has model, devices"),
        ("drafts: {model: x}", "drafts is nothing that a recipe has; here it has name, about, draft"),
        ("draft: {devices: [0]}", "draft.model: is missing"),
        ("draft: {model: x, devices: [0, 0]}", r"devices are different GPUs.*not \[0, 0\]"),
        ("draft: {model: x, devices: [-1]}", "devices are different GPUs"),
        ("draft: {model: x, devices: [true]}", "draft.devices.0: must be a whole number, not True"),
        ("draft: {model: x, workers: 2, gateway: fast}", "draft.gateway: it is a policy of the gateway, cache_aware, "),
        ("draft: foo/bar", "draft: must be a mapping, not 'foo/bar'"),
        (
            "draft: {model: x, port: 9000}\ntarget: {model: y, port: 8999, workers: 2}",
            "target: port 9000 is where draft",
        ),
        ("draft: {model: x, flags: {context-length: 8k}}", "context-length takes a number, not '8k'"),
        ("draft: {model: x, flags: {pp-size: 2}}", "pp-size is what `devices` says"),
        ("draft: {model: x, devices: [0, 1, 2], workers: 2}", "3 devices cannot be shared out evenly among 2 workers"),
        ("draft: {model: x, workers: 0}", "draft.workers: must be at least 1, not 0"),
        ("draft: {model: x, memory: 1.5}", "draft.memory: must be below 1, not 1.5"),
        ("draft: {model: x, memory: 0.5, flags: {mem_fraction_static: 0.4}}", "say the same; give one of them"),
        ("draft: {model: x, flags: {--tp: 2}}", "--tp is written without its dashes"),
        ("draft: {model: x, flags: {tp-size: 2}}", "tp-size is what `devices` says"),
        ("draft: {model: x, flags: {model_path: y}}", "model_path is what `model` says"),
        ("draft: {model: x, flags: {trust-remote-code: false}}", "leave out what is not set"),
        ("draft: {model: x, devices: [0]}\ntarget: {model: y}", "target: say its devices, as the others do"),
        ("draft: {model: x, devices: [0]}\ntarget: {model: y, devices: [0], memory: 0.5}", "draft: GPU 0 is shared"),
        (
            "draft: {model: x, devices: [0], memory: 0.6}\ntarget: {model: y, devices: [0, 1], memory: 0.5}",
            "the shares of GPU 0 add up to 1.1",
        ),
    ],
)
def test_what_a_recipe_cannot_say_is_refused_by_file_and_place(text, says, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"(?s)mine\.yaml.*{says}"):
        find_recipe(str(tmp_path / "mine.yaml"))


def test_an_unknown_recipe_is_named_and_a_missing_file_too(tmp_path):
    with pytest.raises(
        ConfigError, match="unknown launch recipe 'pockt'; known: .*pocket-stories.* or a file of yours"
    ):
        find_recipe("pockt")
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file"):
        find_recipe(str(tmp_path / "none.yaml"))


def test_folders_in_a_recipe_are_seen_from_its_file(tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "r.yaml").write_text("draft: {model: models/mine}\ntarget: {model: models/other}")
    recipe = find_recipe(str(tmp_path / "r.yaml"))
    assert recipe.draft.model == str(tmp_path / "models" / "mine")
    assert recipe.target.model == "models/other", "no folder: a hub name"


def test_flags_are_what_a_command_line_has():
    flags = {"context-length": 8192, "trust_remote_code": True, "json-model-override-args": {"a": [1]}, "x": ["b", 2]}
    part = Recipe.model_validate({"draft": {"model": "m", "flags": flags}}).draft
    assert part.arguments == (
        "--context-length", "8192", "--trust-remote-code", "--json-model-override-args", '{"a": [1]}', "--x", "b", "2",
    )  # fmt: skip


def test_the_command_line_changes_models_and_adds_flags():
    recipe = recipe_of({"draft": "a", "target": "b"})
    more = {"draft": ["--x", "1", "--y"], "target": ["--x=2", "--z", "1", "2"], "verifier": []}
    changed = recipe.changed({"draft": "c"}, more)
    assert changed.draft.model == "c"
    assert changed.draft.arguments == ("--x", "1", "--y")
    assert changed.target.arguments == ("--x", "2", "--z", "1", "2")
    assert changed.changed({}, {"draft": ["--x", "3"]}).draft.arguments == ("--x", "3", "--y"), "the later one holds"
    with pytest.raises(ConfigError, match="recipe pair serves no verifier; it serves draft and target"):
        recipe.changed({"verifier": "v"}, {})
    with pytest.raises(ConfigError, match="'8192' is no flag of SGLang's server"):
        recipe.changed({}, {"draft": ["8192"]})
    with pytest.raises(ConfigError, match="port is what `port` says"):
        recipe.changed({}, {"draft": ["--port", "1"]})


# --- where the runtimes go ------------------------------------------------------------------------------------


def test_without_a_gpu_everything_is_on_the_cpu():
    for spec in specs(recipe_of({"draft": QWEN, "target": QWQ}), []):
        assert (spec.devices, spec.after, spec.flags) == ((), (), ())


def test_with_several_gpus_the_draft_has_one_and_the_target_the_rest():
    for count, target in [(2, (1,)), (3, (1, 2)), (4, (1, 2)), (8, (1, 2, 3, 4))]:
        found = {spec.name: spec for spec in specs(recipe_of({"draft": QWEN, "target": QWQ}), planned(f"{count}x80"))}
        assert (found["draft"].devices, found["target"].devices) == (("0",), tuple(map(str, target)))
        assert option(found["target"], "--tp-size") == (str(len(target)) if len(target) > 1 else None)
        assert not found["draft"].after
        assert "--mem-fraction-static" not in (*found["draft"].flags, *found["target"].flags)


def test_workers_share_the_devices_out():
    recipe = Recipe.model_validate(
        {"draft": {"model": "m", "devices": [4]},
         "target": {"model": "n", "devices": [0, 1, 2, 3], "workers": 2, "port": 30_010}}
    )  # fmt: skip
    found = {spec.name: spec for spec in specs(recipe, planned("5x80"))}
    assert [found[f"target-{i}"].devices for i in (0, 1)] == [("0", "1"), ("2", "3")]
    assert [found[f"target-{i}"].port for i in (0, 1)] == [30_010, 30_011]
    assert {one.role for one in found.values()} == {"draft", "target"}
    assert not isinstance(found["target-0"], Gateway)
    laid = lay_out(Recipe.model_validate({"draft": {"model": "m"}, "target": {"model": "n", "workers": 2}}),
                   planned("6x80"))  # fmt: skip
    assert (laid.draft.devices, laid.target.devices) == ((0,), (1, 2, 3, 4))


def test_a_gateway_comes_after_its_workers_and_is_what_the_role_is_found_by():
    found = {spec.name: spec for spec in specs(find_recipe("data-parallel"), planned("5x80"))}
    gateway, workers = found["target-gateway"], [found["target-0"], found["target-1"]]
    assert (gateway.role, gateway.policy, gateway.after) == ("target", "manual", ("target-0", "target-1"))
    assert gateway.urls == tuple(f"http://127.0.0.1:{worker.port}" for worker in workers)
    assert {worker.role for worker in workers} == {"target worker"}
    assert all("--stream-interval" in worker.flags for worker in workers)  # which the gateway drops from requests
    command = gateway.command(30_000, gpu=True)
    assert command[command.index("--worker-urls") + 1 :][:2] == list(gateway.urls)


@pytest.mark.parametrize(("model", "count", "each"), [(QWEN, 9, 4), (QWQ, 17, 8), ("nobody/knows", 17, 16)])
def test_a_model_goes_on_as_many_gpus_as_divide_its_heads(model, count, each, monkeypatch):
    monkeypatch.setattr("a1_sgl.launch.sizes._from_hub", lambda model: (None, 0.0, 0.0))
    laid = lay_out(recipe_of({"draft": QWEN, "target": model}), planned(f"{count}x80"))
    assert len(laid.target.devices) == each
    three = Recipe.model_validate({"target": {"model": QWQ, "devices": [0, 1, 2]}})
    (fit,) = fits(three, planned("3x80"), Load(1, 1000), 0)
    assert (fit.state, fit.change) == ("wrong", "2 of its devices")


def test_only_gpus_that_this_process_may_use_are_used(monkeypatch, tmp_path):
    gpu_tool(tmp_path, monkeypatch, "\n".join(f"{i}, GPU-{i}a, NVIDIA H100, 81559" for i in range(4)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-3")
    found = {spec.name: spec for spec in specs(recipe_of({"draft": QWEN, "target": QWQ}), devices())}
    assert found["draft"].environment(gpu=True)["CUDA_VISIBLE_DEVICES"] == "2"
    assert found["target"].environment(gpu=True)["CUDA_VISIBLE_DEVICES"] == "3"
    assert found["target"].environment(gpu=True)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices() == []
    assert not has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES names 'MIG-1', which is none of 0, GPU-0a"):
        devices()


def test_those_on_more_gpus_start_first_and_need_the_same_of_each():
    """SGLang refuses ranks that do not have about equally much free."""
    said = {"draft": {"model": "m", "devices": [0, 1], "memory": 0.2},
            "target": {"model": "n", "devices": [1], "memory": 0.6}}  # fmt: skip
    found = {spec.name: spec for spec in specs(Recipe.model_validate(said), planned("2x80"))}
    assert (found["draft"].after, found["target"].after) == ((), ("draft",))
    said["target"]["devices"], said["verifier"] = [1, 2], {"model": "o", "devices": [2, 3], "memory": 0.1}
    with pytest.raises(ConfigError, match="verifier: its GPUs 2, 3 would have different amounts of memory left"):
        specs(Recipe.model_validate(said), planned("4x80"))


def test_shares_that_leave_no_room_for_the_rest_are_refused():
    said = {role: {"model": "m", "devices": [0], "memory": 0.5} for role in ("draft", "target")}
    with pytest.raises(ConfigError, match=r"draft: a share of 0.5 is 40.0 GiB, and of GPU 0 38.0 GiB are left"):
        specs(Recipe.model_validate(said), planned("1x80"))
    flagged = recipe_of({"draft": QWEN, "target": QWEN}).changed({}, {"target": ["--mem-fraction-static", "0.3"]})
    with pytest.raises(ConfigError, match="mem-fraction-static is worked out where models share a GPU"):
        specs(flagged, planned("1x80"))
    assert specs(flagged, planned("2x80"))


models = st.sampled_from(sorted(PUBLISHED))


@given(draft=models, target=models, memory=st.integers(24, 300))
def test_models_that_share_a_gpu_hold_equally_many_tokens(draft, target, memory):
    recipe, gpus = recipe_of({"draft": draft, "target": target}), planned(f"1x{memory}")
    sizes = [size_of(model, {}) for model in (draft, target)]
    together = min(MOST, 1 - 2 * APART / memory)
    if sum(size.weights for size in sizes) >= together * memory * 2**30:
        with pytest.raises(ConfigError, match="the weights do not fit on one GPU"):
            lay_out(recipe, gpus)
        return
    laid = lay_out(recipe, gpus)
    shares = [laid.draft.memory, laid.target.memory]
    assert sum(shares) == pytest.approx(together, abs=0.002)
    tokens = [(share * memory * 2**30 - size.weights) / size.kv for share, size in zip(shares, sizes, strict=True)]
    slack = 0.001 * memory * 2**30 / min(size.kv for size in sizes)  # shares have three digits
    assert tokens[0] == pytest.approx(tokens[1], abs=2 * slack)
    second, first = specs(recipe, gpus)
    assert (first.name, second.name, second.after) == ("target", "draft", ("target",))
    # SGLang takes the second's share of what the first one left, whose context and graphs are not in its share.
    left = memory - shares[1] * memory - APART
    assert float(option(first, "--mem-fraction-static")) == pytest.approx(shares[1], abs=0.001)
    assert float(option(second, "--mem-fraction-static")) * left == pytest.approx(shares[0] * memory, abs=0.001 * left)
    assert shares[0] * memory + APART <= left + 0.002 * memory


def test_gpus_that_are_not_there_are_named():
    with pytest.raises(ConfigError, match="recipe two-gpus uses GPU 1, and there are 1, counted from 0"):
        specs(find_recipe("two-gpus"), planned("1x80"))
    many = Recipe.model_validate({"draft": {"model": "m", "workers": 2}, "target": {"model": "n"}})
    with pytest.raises(ConfigError, match="has 3 workers in all, and there are 2 GPUs"):
        specs(many, planned("2x80"))


def test_models_that_are_not_there_are_named_before_anything_starts(tmp_path):
    assert recipe_of({"draft": "~/mine"}).draft.model == str(Path.home() / "mine")
    with pytest.raises(ConfigError, match="there is no folder ./nothing; a model is a folder or a hub name"):
        specs(recipe_of({"draft": "./nothing"}), [])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no weights"):
        specs(recipe_of({"draft": str(tmp_path)}), [])
    dummy = {"draft": {"model": str(tmp_path), "flags": {"load-format": "dummy"}}}
    assert len(specs(Recipe.model_validate(dummy), [])) == 1


@pytest.mark.parametrize("text", ["2", "x80", "0x80", "-1x80", "2x-1", "2x80x1", "2x", "many", "2xinf"])
def test_gpus_to_plan_for_are_count_and_memory(text):
    with pytest.raises(ConfigError, match="--gpus is COUNTxGIB, such as 2x80, or 0 for none"):
        planned(text)


def test_gpus_are_those_that_the_driver_shows(tmp_path, monkeypatch):
    tool = gpu_tool(tmp_path, monkeypatch, "0, GPU-a, NVIDIA H100 80GB HBM3, 81559\n1, GPU-b, NVIDIA A10, 23028\n")
    found = [(one.id, one.name, round(one.memory, 1)) for one in devices()]
    assert found == [("0", "NVIDIA H100 80GB HBM3", 79.6), ("1", "NVIDIA A10", 22.5)]
    gpu_tool(tmp_path, monkeypatch, "No devices were found", status=6)
    with pytest.raises(ConfigError, match="nvidia-smi does not say what GPUs there are: No devices were found; mend"):
        devices()
    gpu_tool(tmp_path, monkeypatch, "")
    with pytest.raises(ConfigError, match="what GPUs there are: nothing; mend"):
        devices()
    tool.unlink()
    amd = gpu_tool(tmp_path, monkeypatch, '{"card0": {"VRAM Total Memory (B)": "206141652992"}}', name="rocm-smi")
    assert [(one.id, round(one.memory)) for one in devices()] == [("0", 192)]
    amd.unlink()
    assert devices() == []


# --- how large models are, and whether they fit ---------------------------------------------------------------


def test_a_folders_size_is_that_of_its_files(pair):
    """And of the cache what the runtime itself holds room for: see the log of the engine for its own figure."""
    folder = Path(pair.roles.named("target").engine.identity.model)
    config, size = json.loads((folder / "config.json").read_text()), size_of(str(folder), {})
    assert size.weights == (folder / "model.safetensors").stat().st_size
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    assert size.kv == 2 * layers * hidden * config["num_key_value_heads"] / config["num_attention_heads"] * 4
    assert size.context == config["max_position_embeddings"]


def test_types_and_quantisation_change_what_a_model_takes():
    plain = size_of(QWQ, {})
    assert plain.weights == pytest.approx(65.5e9, rel=0.002)
    assert (plain.kv, plain.kv_heads) == (2 * 64 * 8 * 128 * 2, 8)
    assert size_of(QWQ, {"quantization": "fp8"}).weights == plain.weights / 2
    assert size_of(QWQ, {"kv-cache-dtype": "fp8_e5m2"}).kv == plain.kv / 2
    assert size_of(QWQ, {}, cpu=True).weights == 2 * plain.weights
    assert size_of(QWQ, {"context-length": 100}).context == 100


def test_what_forgets_or_is_latent_takes_less(tmp_path):
    base = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16,
            "hidden_size": 128, "max_position_embeddings": 99}  # fmt: skip
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)

    def kv(**more):
        (tmp_path / "config.json").write_text(json.dumps(base | more))
        return size_of(str(tmp_path), {}).kv

    assert kv() == 2 * 4 * 4 * 16 * 2
    assert kv(layer_types=["linear_attention", "full_attention"] * 2) == 2 * 2 * 4 * 16 * 2
    assert kv(layer_types=["sliding_attention", "full_attention"] * 2) == kv(), "as SGLang serves Gemma 3"
    assert kv(kv_lora_rank=32, qk_rope_head_dim=8) == 4 * 40 * 2
    assert size_of(str(tmp_path), {}).kv_heads == 1, "whole on each GPU"
    assert kv(text_config=base | {"num_hidden_layers": 2}) == 2 * 2 * 4 * 16 * 2
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is no model's folder: its config.json cannot be read"):
        size_of(str(tmp_path), {})


@pytest.mark.parametrize("config", [{}, [], {"num_hidden_layers": 2}, {"hidden_size": "x", "num_hidden_layers": 1}])
def test_a_configuration_that_says_too_little_is_named(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 10)
    with pytest.raises(ConfigError, match="its config.json is not what a language model's is"):
        size_of(str(tmp_path), {})


def test_weights_are_those_of_the_files_that_are_served(tmp_path):
    config = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "max_position_embeddings": 9,
              "intermediate_size": 128, "vocab_size": 100, "torch_dtype": "bfloat16"}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert size_of(str(tmp_path), {"load-format": "dummy"}).weights > 2 * 100 * 64 * 2, "reckoned from the shape"
    for name in ("a.safetensors", "b.safetensors", "consolidated.safetensors", "a.bin"):
        (tmp_path / name).write_bytes(b"x" * 1000)
    assert size_of(str(tmp_path), {}).weights == 2000
    assert size_of(str(tmp_path), {"quantization": "fp8"}).weights == 1000
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    assert size_of(str(tmp_path), {"quantization": "fp8"}).weights == 2000, "they are in eight bits already"


def test_what_a_target_decodes_with_takes_its_part(monkeypatch):
    monkeypatch.setattr("a1_sgl.launch.sizes._from_hub", lambda model: (None, 0.0, 0.0))
    load, gpus = Load(4, 8000), planned("2x80")
    plain, standalone, eagle = (
        fits(find_recipe(f"qwen3-1.7b-qwen3-32b{kind}"), gpus, load, 0)[1] for kind in ("", "-standalone", "-eagle3")
    )
    rooms = [int(fit.says.partition("cache of ")[2].split()[0].replace(",", "")) for fit in (plain, standalone, eagle)]
    assert rooms[1] < 0.8 * rooms[0]
    assert rooms[2] == rooms[0]
    assert "is not counted, since nothing is known of it" in eagle.says


def test_what_does_not_fit_comes_with_the_smallest_change_that_would():
    found = {fit.role: fit for fit in fits(find_recipe("two-gpus"), planned("2x80"), Load(64, 15_000), 0)}
    assert found["draft"].state == "ok"
    assert found["target"].state == "tight"
    changed = int(found["target"].change.partition(" ")[2].split(",")[0])
    again = {fit.role: fit for fit in fits(find_recipe("two-gpus"), planned("2x80"), Load(changed, 15_000), 0)}
    more = {fit.role: fit for fit in fits(find_recipe("two-gpus"), planned("2x80"), Load(changed + 1, 15_000), 0)}
    assert (again["target"].state, more["target"].state) == ("ok", "tight")


def test_weights_that_do_not_fit_want_more_gpus_or_fewer_bits():
    recipe = Recipe.model_validate({"draft": {"model": QWEN, "devices": [0]}, "target": {"model": QWQ, "devices": [1]}})
    found = {fit.role: fit for fit in fits(recipe, planned("2x48"), Load(4, 4000), 0)}
    assert found["draft"].state == "ok"
    assert found["target"].state == "wrong"
    assert found["target"].change == '2 such GPUs for it (`devices`), or "quantization: fp8" among its flags'
    both = {"target": {"model": QWQ, "devices": [1, 2]}}
    assert fits(Recipe.model_validate(both), planned("3x48"), Load(4, 4000), 0)[0].state == "ok"
    eight = {"target": {"model": QWQ, "devices": [1], "flags": {"quantization": "fp8"}}}
    assert fits(Recipe.model_validate(eight), planned("2x48"), Load(4, 4000), 0)[0].state == "ok"


def test_on_a_cpu_all_runtimes_share_its_memory():
    pocket = fits(find_recipe("pocket"), [], Load(64, 1000), 24)
    assert [fit.state for fit in pocket] == ["ok", "ok"]
    assert {fit.state for fit in fits(find_recipe("pocket"), [], Load(64, 1000), 4)} == {"wrong"}
    assert fits(find_recipe("pocket"), [], Load(600, 1000), 24)[0].change == "--in-flight 390"
    assert {fit.state for fit in fits(find_recipe("two-gpus"), [], Load(1, 1000), 24)} == {"wrong"}


def test_of_a_model_that_nobody_knows_nothing_is_said(monkeypatch):
    monkeypatch.setattr("a1_sgl.launch.sizes._from_hub", lambda model: (None, 0.0, 0.0))
    recipe = recipe_of({"draft": "nobody/nothing", "target": QWQ})
    assert [fit.state for fit in fits(recipe, planned("3x80"), Load(1, 1000), 0)] == ["unknown", "ok"]
    with pytest.raises(ConfigError, match=r"nobody/nothing is not here and cannot be looked up.*say `memory`"):
        specs(recipe, planned("1x80"))


# --- the commands ---------------------------------------------------------------------------------------------


def test_a_dry_run_prints_commands_that_a_shell_takes():
    status, text, _ = a1("launch", "r1-qwen-1.5b-qwq-32b", "--dry-run", "--gpus", "2x80", "--target-flags",
                         "--json-model-override-args '{\"a\": 1}'", "--", "--trust-remote-code")  # fmt: skip
    assert status == 0
    comments, commands = text.splitlines()[::2], [shlex.split(line) for line in text.splitlines()[1::2]]
    assert comments == [
        "# draft: deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B on GPU 0, when the target is healthy",
        "# target: Qwen/QwQ-32B on GPU 0, 1",
    ]
    assert commands[1][:7] == ["SGLANG_RETURN_ORIGINAL_LOGPROB=1", "CUDA_VISIBLE_DEVICES=0,1",
                               "CUDA_DEVICE_ORDER=PCI_BUS_ID", "python", "-m", "a1_sgl.launch.serve",
                               "--model-path"]  # fmt: skip
    assert '{"a": 1}' in commands[1]
    assert all("--trust-remote-code" in command and "--enable-metrics" in command for command in commands)
    assert not any("cpu" in word for command in commands for word in command)


def test_a_dry_run_is_what_is_started(pair, tmp_path):
    """The served pair's command lines, as the system shows them, are those of the recipe that it is of."""
    import psutil

    _, text, _ = a1("launch", "pocket", "--dry-run", "--json")
    wanted = {one["name"]: one["command"] for one in json.loads(text)["runtimes"]}
    started = {
        words[words.index("--model-path") + 1]: words
        for process in psutil.process_iter(["cmdline"])
        if "a1_sgl.launch.serve" in (words := process.info["cmdline"] or [])
    }
    for role in ("draft", "target"):
        command, ran = wanted[role], started[wanted[role][4]]
        port = ran.index("--port") + 1
        assert [*ran[:port], "PORT", *ran[port + 1 :]] == command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["launch", "start"], "say what to serve: a recipe"),
        (["launch", "statsu"], "unknown launch recipe 'statsu'"),
        (["launch", "pocket", "--gpus", "1x80"], "--gpus 1x80 plans for .* another one; give --dry-run with it"),
        (["launch", "pocket", "--timeout", "0"], "--timeout is above 0 s, not 0"),
        (["launch", "--state", "x", "status"], "a1 launch status: that word comes first"),
        (["launch", "pocket", "--dry-run", "--target-flags", "--context-len 8"], "SGLang .* does not take its flags"),
        (["launch", "pocket", "--verifier", "x", "--dry-run"], "recipe pocket serves no verifier"),
        (["launch", "--verifier", "x", "--dry-run"], "it serves nothing"),
        (["launch", "pocket", "--draft-flags", "'", "--dry-run"], '--draft-flags "\'": No closing quotation'),
        (["launch", "pocket", "--dry-run", "--", "--nonsense"], "SGLang .* does not take its flags"),
        (["doctor", "--gpus", "2x80"], "--gpus and --length are for a launch recipe"),
        (["doctor", "two-gpus", "--length", "0"], "at least 1, not 64 and 0"),
    ],
)
def test_what_cannot_be_launched_is_refused(arguments, says):
    _, _, error = a1(*arguments)
    assert isinstance(error, ConfigError)
    with pytest.raises(ConfigError, match=says):
        raise error


def test_doctor_says_whether_a_recipe_fits_and_ends_with_1_where_it_cannot_be_served(tmp_path):
    asked = ["--gpus", "2x80", "--state", str(tmp_path), "--json"]
    status, text, _ = a1("doctor", "two-gpus", *asked, "--in-flight", "4")
    states = {one["name"]: one["state"] for one in json.loads(text)["checks"]}
    assert (status, states["draft fits"], states["target fits"], states["A1 pays"]) == (0, "ok", "ok", "none")
    text = a1("doctor", "r1-qwen-1.5b-qwq-32b", *asked)[1]
    assert "64 chains of 15,256 need" in text, "15 turns of 500 + 500, as its eval recipe has it, and a question"
    status, text, _ = a1("doctor", "two-gpus", "--gpus", "2x12", "--state", str(tmp_path), "--json")
    assert status == 1
    assert "15.0 GiB of weights on 12 GiB" in text
    assert "what would: 4 such GPUs for it" in text
