"""A hundred things that people get wrong: each ends in exit status 2 and one message with what, where and a cure."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forking import Run
from safetensors.torch import load_file, save_file
from whole_runs import ROOT, SFT, TRAIN, Refuse, environment

from fastsvs.cli import main

TINY = ROOT / "models" / "tiny"
PLAIN = ("train", "configs/tiny_rlvr.yaml", *TRAIN[2:], "evaluation.path=null", "dynamics.every=0", "run.steps=1")
EVAL = ("eval", "configs/tiny_eval.yaml", "sets.heldout.data.limit=2", "sets.heldout.samples=1", "sets.heldout.k=[1]")
UNLABELLED = (*PLAIN, "selfplay.stage=none")
EXPERTS = (
    *(*UNLABELLED, "algorithm.reward=log_prob", "policy.router_replay=rollout", "rollout.max_response_tokens=8"),
    *("model.path=models/tiny_moe", "model.tokenizer=models/tiny", "model.initialize=random"),
)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4981640\n"
NAN, INFINITE = float("nan"), float("inf")
Damage = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _plug_ins_are_found(at_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def cases(*table: tuple[Any, ...]) -> Any:
    """Parametrize `change` and `message`, or `arguments` and `message`, by the message."""
    return pytest.mark.parametrize(("change", "message"), table, ids=[str(row[-1])[:60] for row in table])


# --- the model's files; the run and its dry run say the same ---------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return shutil.copytree(TINY, tmp_path / "model")


def setting(**values: Any) -> Damage:
    """Change keys of config.json."""

    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | values))

    return change


def writing(name: str, content: str | bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def without(key: str) -> Damage:
    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        del config[key]
        (model / "config.json").write_text(json.dumps(config))

    return change


YARN = {"rope_type": "yarn", "rope_theta": 10000.0}


@cases(
    (setting(num_attention_heads=0), "num_attention_heads=0 (at least 1)"),
    (setting(num_key_value_heads=0), "num_key_value_heads=0 (at least 1)"),
    (setting(num_hidden_layers=0), "num_hidden_layers"),
    (setting(hidden_size="wide"), "hidden_size"),
    (setting(hidden_size=190), "num_attention_heads=6 (a divisor of hidden_size=190)"),
    (setting(intermediate_size=-1), "intermediate_size=-1 (at least 1)"),
    (setting(vocab_size=0), "vocab_size=0 (at least 1)"),
    (setting(max_position_embeddings=0), "max_position_embeddings=0 (at least 1)"),
    (setting(num_key_value_heads=4), "num_key_value_heads=4 (a divisor of num_attention_heads=6)"),
    (setting(head_dim=0), "head_dim=0 (even and at least 2)"),
    (setting(head_dim=15), "head_dim"),
    (setting(rms_norm_eps=0.0), "rms_norm_eps=0.0 (above 0)"),
    (setting(rope_parameters=YARN), "factor"),
    (setting(rope_parameters={"rope_type": "spiral", "rope_theta": 1.0}), "rope_type='spiral' (only default"),
    (setting(rope_parameters={"rope_type": "default", "rope_theta": 0.0}), "rope_theta=0.0 (a number above 0)"),
    (setting(rope_parameters={"rope_type": "default", "rope_theta": "1e4"}), "rope_theta='1e4' (a number above 0)"),
    (setting(rope_parameters=YARN | {"factor": "4"}), "cannot be computed: '<=' not supported"),
    (setting(rope_parameters=YARN | {"factor": 4.0, "beta_slow": -1.0}), "cannot be computed: math domain error"),
    (setting(rope_parameters=YARN | {"factor": 0.0}), "give frequencies that are not finite"),
    (setting(dtype="float99"), "float99"),
    (setting(hidden_act="gelu"), "hidden_act='gelu' (only 'silu')"),
    (setting(use_sliding_window=True, layer_types=["sliding_attention"] * 4, sliding_window=8), "sliding-window"),
    (setting(quantization_config={"quant_method": "awq"}), "quantized weights"),
    (setting(model_type="bert"), "model type 'bert' is not supported; supported: qwen2, qwen3, llama"),
    (setting(model_type=5), "model type `5`"),
    (without("model_type"), "Should have a `model_type` key"),
    (setting(tie_word_embeddings="yes"), "tie_word_embeddings"),
    (writing("config.json", "{"), "is not a valid JSON file"),
    (writing("config.json", ""), "is not a valid JSON file"),
    (writing("config.json", "null"), "no readable Hugging Face model config"),
    (writing("config.json", "[1]"), "no readable Hugging Face model config"),
    (writing("config.json", b"\xff\xfe{}"), "no readable Hugging Face model config"),
    (writing("config.json", POINTER), "is not a valid JSON file"),
)
def test_a_config_of_no_model(refuse: Refuse, model: Path, change: Damage, message: str) -> None:
    change(model)
    said = refuse(*TRAIN, f"model.path={model}", "model.tokenizer=models/tiny")
    assert str(model) in said
    assert message in said


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(model: Path) -> None:
        found = load_file(model / "model.safetensors")
        change(found)
        save_file(found, model / "model.safetensors")

    return damage


def index(content: str) -> Damage:
    def damage(model: Path) -> None:
        (model / "model.safetensors").rename(model / "part.safetensors")
        (model / "model.safetensors.index.json").write_text(content)

    return damage


NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"


@cases(
    (writing("model.safetensors", POINTER), "model.safetensors is a git LFS pointer and not the weights: run `git lfs"),
    (writing("model.safetensors", ""), "(0 bytes) is no whole safetensors file"),
    (writing("model.safetensors", b"\5\0\0\0\0\0\0\0hello"), "is no whole safetensors file"),
    (lambda m: os.truncate(m / "model.safetensors", 10**6), "(1000000 bytes) is no whole safetensors file"),
    (lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin"), "convert them"),
    (tensors(lambda found: found.pop(NORM)), f"{NORM} is missing"),
    (tensors(lambda found: found.update(more=torch.ones(1))), "more has no place in this model"),
    (tensors(lambda found: found.update({NORM: torch.ones(7)})), f"{NORM} has shape [7]"),
    (tensors(lambda found: found.update({NORM: found[NORM].to(torch.int8)})), f"{NORM} is stored as I8"),
    (
        tensors(lambda found: found.update({"lm_head.weight": found[EMBEDDING] * 2})),
        f"lm_head.weight in model.safetensors is not {EMBEDDING}: set tie_word_embeddings to false",
    ),
    (index("{"), "model.safetensors.index.json cannot be read as JSON"),
    (index("{}"), "has no weight_map"),
    (index('{"weight_map": {"a": "gone.safetensors"}}'), "files that are not there (gone.safetensors)"),
    (index('{"weight_map": {"a": "../part.safetensors"}}'), "names files outside its folder"),
    (index('{"weight_map": {"a": "part.safetensors"}}'), "a in part.safetensors"),
    (writing("generation_config.json", "{"), "generation_config.json cannot be read as JSON"),
    (writing("generation_config.json", "[" * 10**5), "generation_config.json cannot be read as JSON"),
    (writing("generation_config.json", "[]"), "generation_config.json holds no JSON object"),
    (writing("generation_config.json", '{"eos_token_id": "</s>"}'), "eos_token_id must be a token id or a list"),
    (writing("generation_config.json", '{"eos_token_id": [3, 9999]}'), "[9999] lie outside the model's vocabulary"),
    (writing("tokenizer.json", POINTER), "no tokenizer can be loaded from"),
    (lambda m: os.truncate(m / "tokenizer.json", 900), "no tokenizer can be loaded from"),
    (writing("tokenizer_config.json", "{"), "no tokenizer can be loaded from"),
)
def test_files_of_a_model_that_cannot_be_read(refuse: Refuse, model: Path, change: Damage, message: str) -> None:
    change(model)
    said = refuse(*TRAIN, f"model.path={model}")
    assert message in said


@pytest.mark.parametrize("job", [SFT, EVAL], ids=lambda job: job[0])
def test_every_command_reads_headers_first(refuse: Refuse, model: Path, job: tuple[str, ...]) -> None:
    os.truncate(model / "model.safetensors", 10**6)
    initialize = ("model.initialize=pretrained",) if job is SFT else ()
    assert "is no whole safetensors file" in refuse(*job, f"model.path={model}", *initialize)


@pytest.mark.parametrize("value", [NAN, INFINITE])
def test_values_of_a_model_are_read_by_the_run(refuse: Refuse, model: Path, value: float) -> None:
    tensors(lambda found: found[EMBEDDING][3].fill_(value))(model)
    said = refuse(*TRAIN, f"model.path={model}", dry=False)
    assert f"{EMBEDDING} in {model}/model.safetensors holds values that are NaN or infinite" in said


# --- plug-ins and keys -----------------------------------------------------------------------------------------------


@cases(
    *((f"{key}=nowhere:it", "'nowhere:it' cannot be imported: ModuleNotFoundError") for key in (
        "data.prompt", "selfplay.stage", "sampler.name", "algorithm.advantage", "algorithm.loss", "algorithm.reward",
        "merging.hook", "rollout.engine",
    )),
    ("logging.loggers=[nowhere:g]", "logger 'nowhere:g' cannot be imported: ModuleNotFoundError"),
    ("data.prompt=wrong_ideas:chat", "module 'wrong_ideas' has no 'chat'"),
    ("data.prompt=wrong_ideas:number", "prompt 'wrong_ideas:number' is of type int: name a function or a class"),
    ("data.prompt=wrong_ideas:nothing", "prompt 'wrong_ideas:nothing' returned None; it must return a list"),
    ("data.prompt=wrong_ideas:told_as_text", "it must return a list of messages, each {"),
    ("data.prompt=wrong_ideas:told_to_nobody", "'wrong_ideas:told_to_nobody' returned {'content': "),
    ("selfplay.stage=wrong_ideas:number", "experience stage 'wrong_ideas:number' is of type int"),
    ("selfplay.stage=wrong_ideas:lonely", "cannot be called with (config, tools): too many positional arguments"),
    ("selfplay.stage=wrong_ideas:nothing", "makes a NoneType without judges, reads_problems, begin"),
    ("sampler.name=wrong_ideas:nothing", "sampler 'wrong_ideas:nothing' makes a NoneType without"),
    ("sampler.name=wrong_ideas:NanStage", "makes a NanStage without reads_verdicts, draw, observe"),
    ("algorithm.advantage=wrong_ideas:lonely", "advantage 'wrong_ideas:lonely' cannot be called with (batch, context)"),
    ("algorithm.loss=wrong_ideas:lonely", "policy loss 'wrong_ideas:lonely' cannot be called with (terms, config)"),
    ("merging.hook=wrong_ideas:lonely", "checkpoint hook 'wrong_ideas:lonely' cannot be called with (config, seed)"),
    ("logging.loggers=[wrong_ideas:lonely]", "logger 'wrong_ideas:lonely' cannot be called with (run)"),
    ("rollout.engine=wrong_ideas:nothing", "rollout engine 'wrong_ideas:nothing' has no collective, check, build"),
    ("policy.optimizer.learning_rate=.inf", "policy.optimizer.learning_rate: Input should be a finite number"),
    ("policy.optimizer.weight_decay=.nan", "policy.optimizer.weight_decay: Input should be"),
    ("rollout.temperature=.inf", "rollout.temperature: Input should be a finite number"),
    ("rollout.temperature=0", "rollout.temperature: Input should be greater than 0"),
    ("rollout.samples_per_prompt=1", "set it to 2 or more (8 is usual)"),
    ("run.timeout_seconds=.inf", "run.timeout_seconds: Input should be a finite number"),
    ("data.limit=0", "data.limit: Input should be greater than or equal to 1"),
    ("run.steps=3.7", "run.steps: Input should be a valid integer"),
    ("evaluation.k=[16]", "every k of pass@k must lie in 1..samples"),
)  # fmt: skip
def test_keys_and_plug_ins(refuse: Refuse, change: str, message: str) -> None:
    assert message in refuse(*TRAIN, change)


@cases(
    ((*UNLABELLED, "algorithm.reward=wrong_ideas:nan_rewards"), "returned a value that is not finite (place 0: nan)"),
    ((*UNLABELLED, "algorithm.reward=wrong_ideas:one_infinite_reward"), "is not finite (place 1: inf)"),
    ((*UNLABELLED, "algorithm.reward=wrong_ideas:one_reward"), "returned shape (1,); it must be [samples]"),
    ((*UNLABELLED, "algorithm.reward=wrong_ideas:listed_rewards"), "returned a list; it must return a torch.Tensor"),
    ((*UNLABELLED, "algorithm.reward=wrong_ideas:nan_metric"), "step 1: the metric credit/surprise is nan"),
    ((*PLAIN, "algorithm.advantage=wrong_ideas:nan_advantages"), "returned a value that is not finite"),
    ((*PLAIN, "algorithm.advantage=wrong_ideas:wide_advantages"), "it must be [samples]"),
    ((*PLAIN, "algorithm.advantage=wrong_ideas:nothing"), "returned a NoneType; it must return a torch.Tensor"),
    ((*PLAIN, "algorithm.loss=wrong_ideas:infinite_loss"), "no update was made; lower policy.optimizer.learning_rate"),
    ((*PLAIN, "algorithm.loss=wrong_ideas:infinite_loss_metric"), "the metric policy/surprise is -inf"),
    ((*PLAIN, "algorithm.loss=wrong_ideas:bare_loss"), "'wrong_ideas:bare_loss' must return a TokenLoss"),
    ((*PLAIN, "selfplay.stage=wrong_ideas:NanStage"), "is nan"),
    ((*PLAIN, "sampler.name=wrong_ideas:FarSampler"), "draws at step 0 what there is not: an index outside the 64"),
    ((*PLAIN, "merging.hook=wrong_ideas:nan_hook", "merging.every=1"), "merging.hook must return finite weights of"),
    ((*EXPERTS, "rollout.engine=wrong_ideas:SilentEngine"), "wrong_ideas:SilentEngine does not say which experts"),
)
def test_what_plug_ins_return(capsys, tmp_path: Path, change: tuple[str, ...], message: str) -> None:
    assert main([*change, f"run.dir={tmp_path}/run"]) == 2
    said = capsys.readouterr().err.partition("fastsvs: error: ")[2]
    assert message in said
    assert "Traceback" not in said


# --- what an earlier session has left --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run of two steps with one evaluation, and the evaluation of it beside it."""
    folder = tmp_path_factory.mktemp("finished")
    few = ("run.prompts_per_step=4", "dynamics.every=0", "run.steps=2", "evaluation.limit=2")
    for job in (("train", "configs/tiny_rlvr.yaml", *TRAIN[2:], *few, f"run.dir={folder}/run"),
                (*EVAL, f"model.path={folder}/run", f"output={folder}/out")):  # fmt: skip
        ended = Run(*job).completed(240)
        assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "again")


def resume(folder: Path) -> list[str]:
    few = ("run.prompts_per_step=4", "dynamics.every=0", "evaluation.limit=2")
    return ["train", "configs/tiny_rlvr.yaml", *TRAIN[2:], *few, "run.steps=3", f"run.dir={folder}/run"]


def manifest(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "run" / "checkpoints" / "step_00000002" / "manifest.json"
        tree = json.loads(path.read_text())
        change(tree)
        path.write_text(json.dumps(tree))

    return damage


def appending(name: str, text: str) -> Damage:
    def damage(folder: Path) -> None:
        with open(folder / "run" / name, "a") as file:
            file.write(text)

    return damage


PART = "rank_00000.safetensors"


@cases(
    (manifest(lambda tree: tree.pop("state")), "manifest.json is not as it was written: state: Field required"),
    (manifest(lambda tree: tree.pop("files")), "files: Field required"),
    (manifest(lambda tree: tree.update(step=9)), "manifest.json says step 9"),
    (manifest(lambda tree: tree.update(updates="two")), "updates: Input should be a valid integer"),
    (manifest(lambda tree: tree.update(format=7)), "manifest.json is not of format 1"),
    (manifest(lambda tree: tree["architecture"].update(layers=5)), "is of another model than model.path"),
    (manifest(lambda tree: tree["files"].update({"../x": tree["files"].pop(PART)})), "files.../x.[key]"),
    (manifest(lambda tree: tree["files"][PART].update(bytes=5)), f"{PART} has"),
    (manifest(lambda tree: tree.update(state={"plugins": [1]})), "state.plugins in"),
    (manifest(lambda tree: tree.update(state={"plugins": {"reward": 5}})), "holds no object for the reward"),
    (lambda f: (f / "run/checkpoints/step_00000002/manifest.json").unlink(), "manifest.json cannot be read: No such"),
    (lambda f: (f / "run/checkpoints/step_00000002" / PART).unlink(), f"{PART} cannot be read: No such file"),
    (lambda f: (f / "run/config.yaml").write_text("{"), "config.yaml cannot be read as YAML"),
    (lambda f: (f / "run/config.yaml").write_text("[1]"), "config.yaml holds no configuration"),
    (lambda f: (f / "run/config.yaml").write_text("run: 5"), "holds a run with another configuration"),
    (appending("metrics.jsonl", "{oops}\n"), "metrics.jsonl, line 3: not JSON"),
    (appending("metrics.jsonl", '{"loss": 1}\n'), "metrics.jsonl, line 3: no step"),
    (appending("metrics.jsonl", "5\n"), "metrics.jsonl, line 3: not a JSON object"),
    (appending("metrics.jsonl", '{"step": 3, "reward/mean": NaN}\n'), "line 3: reward/mean is nan, which is no finite"),
    (appending("metrics.jsonl", '{"step": 3, "loss": "low"}\n'), "metrics.jsonl, line 3: loss is 'low', which is no"),
    (appending("metrics.jsonl", f'{{"step": 3, "loss": {10**400}}}\n'), "metrics.jsonl, line 3: loss is 1000"),
    (lambda f: (f / "run/evaluations/step_0.json").write_text("{"), "evaluations/step_0.json: not JSON"),
    (lambda f: (f / "run/evaluations/step_0.json").write_text('{"pass@1": 0.5}'), "pass@1 is 0.5 instead of mean, low"),
    (
        lambda f: (f / "run/evaluations/step_0.json").write_text('{"pass@1": {"mean": NaN, "low": 0, "high": 1}}'),
        "evaluations/step_0.json: evaluation/pass@1 is nan",
    ),
)
def test_a_run_that_a_hand_has_edited(capsys, again: Path, change: Damage, message: str) -> None:
    change(again)
    assert main(resume(again)) == 2
    said = capsys.readouterr().err.partition("fastsvs: error: ")[2]
    assert str(again) in said
    assert message in said
    assert re.search(r"move|another|bring", said), "a cure"


@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_fewer_steps_than_a_run_has(capsys, again: Path, more: tuple[str, ...]) -> None:
    summary = (again / "run" / "summary.json").read_bytes()
    assert main([*resume(again), "run.steps=1", *more]) == 2
    assert "holds a run of 2 steps, more than run.steps=1, which counts all steps of a run" in capsys.readouterr().err
    assert (again / "run" / "summary.json").read_bytes() == summary


@cases(
    (lambda f: (f / "out/model.json").write_text("{"), "out/model.json: not JSON"),
    (lambda f: (f / "out/model.json").write_text("{}"), "None -> 2"),
    (lambda f: (f / "out/heldout.samples.jsonl").write_text("{}\n"), "heldout.samples.jsonl is not as it was written"),
    (lambda f: (f / "out/heldout.samples.jsonl").write_text("5\n"), "heldout.samples.jsonl, line 1: not a JSON object"),
    (lambda f: (f / "out/config.yaml").write_text("- 1"), "config.yaml holds no configuration"),
    (lambda f: (f / "run/base/config.json").write_text("{"), "base"),
    (lambda f: shutil.rmtree(f / "run/checkpoints"), "has no checkpoint yet"),
)
def test_an_evaluation_that_a_hand_has_edited(capsys, again: Path, change: Damage, message: str) -> None:
    text = (again / "out/config.yaml").read_text()  # of the folder that it was copied from
    (again / "out/config.yaml").write_text(re.sub(r"path: .*/run$", f"path: {again}/run", text, flags=re.MULTILINE))
    change(again)
    assert main([*EVAL, f"model.path={again}/run", f"output={again}/out"]) == 2
    said = capsys.readouterr().err.partition("fastsvs: error: ")[2]
    assert message in said
    assert str(again) in said


@pytest.fixture
def taken(again: Path) -> Iterator[None]:
    """Another process is at work in the run folder."""
    with open(again / "run" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("taken")
def test_a_run_folder_that_is_taken(capsys, again: Path) -> None:
    assert main(resume(again)) == 2
    assert f"another process is at work in {again}/run: wait for its end, or choose another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "{0}/run", "--out", "{0}/out"), "{0}/out exists already: name a new folder"),
        (("export", "{0}/out", "--out", "{0}/hf"), "{0}/out"),
        (("export", "{0}/nowhere", "--out", "{0}/hf"), "no file or folder {0}/nowhere: name a run folder"),
        (("export", "{0}/run", "--out", "/proc/nowhere/hf"), "the model cannot be written to /proc/nowhere/hf"),
        (("merge", "{0}/run", "{0}/nowhere", "--out", "{0}/hf"), "no file or folder {0}/nowhere"),
        (("merge", "{0}/run", "{0}/run", "--weight", "nan", "--out", "{0}/hf"), "weight"),
        (("report", "{0}/nowhere"), "no file or folder {0}/nowhere: name a run folder"),
        (("report", "{0}/run", "--out", "/proc/nowhere/report.html"), "cannot write /proc/nowhere/report.html"),
        (("analyze", "{0}/nowhere"), "no file or folder {0}/nowhere: name a run folder"),
        (("analyze", "{0}/run", "--out", "/proc/nowhere/x.json"), "cannot write /proc/nowhere/x.json"),
        ((*PLAIN, "run.dir=/proc/nowhere"), "nothing can be written to /proc/nowhere"),
        ((*PLAIN, "run.dir={0}/run/config.yaml"), "run.dir: {0}/run/config.yaml is a file; name a folder"),
        ((*PLAIN, "run.dir={0}"), "{0} holds files but no run: choose another run.dir"),
        (
            (*PLAIN, "model.path={0}/run"),
            "is of the run {0}/run, and is no model: `fastsvs export {0}/run",
        ),
        ((*PLAIN, "model.path={0}/run/checkpoints/step_00000002"), "begins with its weights by model.from_run={0}/run"),
        ((*EVAL, "model.path={0}/run/checkpoints"), "is of the run {0}/run, and is no model"),
        ((*SFT, "run.dir={0}/run"), "{0}/run holds a run with another configuration"),
        ((*SFT, "run.dir={0}/sft", "export={0}/run/config.yaml"), "export: {0}/run/config.yaml is a file"),
        ((*EVAL, "output={0}/run"), "{0}/run holds"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value)[:50],
)
def test_folders(capsys, again: Path, arguments: tuple[str, ...], message: str) -> None:
    assert main([argument.format(again) for argument in arguments]) == 2
    said = capsys.readouterr().err.partition("fastsvs: error: ")[2]
    assert message.format(again) in said
    assert not list(again.glob(".*partial"))
    assert not (again / "hf").exists()


# --- processes -------------------------------------------------------------------------------------------------------


def test_few_open_files(tmp_path: Path) -> None:
    command = f"ulimit -n 64; exec {sys.executable} -m fastsvs train configs/tiny_svs.yaml run.dir={tmp_path}/run"
    ended = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("fastsvs: error: this process may have 64 files open at most, and a job needs 256:")
    assert "`ulimit -n 4096`" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "configs/nowhere.yaml"), "config file configs/nowhere.yaml does not exist"),
        ((*PLAIN, "algorithm.advantage=grop"), "unknown advantage 'grop'. Did you mean 'grpo'?"),
        ((*PLAIN, "model.path={0}/model", "model.tokenizer=models/tiny"), "num_attention_heads=0 (at least 1)"),
        ((*PLAIN, "run.dir=README.md"), "is a file; name a folder"),
        ((*PLAIN, "algorithm.advantage=wrong_ideas:nan_advantages"), "returned a value that is not finite"),
        ((*UNLABELLED, "algorithm.reward=wrong_ideas:nan_metric"), "the metric credit/surprise is nan"),
        ((*PLAIN, "algorithm.loss=wrong_ideas:infinite_loss"), "no update was made"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_two_processes_say_it_once(model: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    setting(num_attention_heads=0)(model)
    changed = [argument.format(tmp_path) for argument in arguments]
    place = () if any("run.dir" in argument for argument in changed) else (f"run.dir={tmp_path}/run",)
    ended = Run(*changed, *place, processes=2).completed(120)
    assert ended.returncode == 1  # torchrun's own
    assert ended.stderr.count("fastsvs: error: ") == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
