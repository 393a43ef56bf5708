"""`--dry-run` of the paper-scale runs on a CPU, from a folder that holds nothing of the model but its config.json."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from bench.plan.shipped import MODELS
from fastsvs.cli import main
from fastsvs.commands.dry_run import check_tensors
from fastsvs.config import TrainJob, load
from fastsvs.errors import UserError
from fastsvs.plan import Present
from fastsvs.policy import read_architecture

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"

PUBLISHED = {
    "qwen2.5_3b": MODELS["Qwen/Qwen2.5-3B-Instruct"],
    "qwen2.5_32b": MODELS["Qwen/Qwen2.5-32B-Instruct"],
    "llama3.1_8b": MODELS["meta-llama/Llama-3.1-8B-Instruct"],
}


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Overrides that put a model folder and problems of this machine in place of the hub's."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)  # an earlier test may have joined a world of one
    problems = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(8)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))

    def overrides(shape: dict) -> list[str]:
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "config.json").write_text(json.dumps(shape))
        return [
            f"model.path={tmp_path}/model",
            f"model.tokenizer={ROOT}/models/tiny",
            f"data.path={tmp_path}/problems.jsonl",
            f"evaluation.path={tmp_path}/problems.jsonl",
            f"run.dir={tmp_path}/run",
        ]

    return overrides


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine in place of this one, which could not hold a 32B job that torchrun starts on it."""
    machine = Present("cpu", 0, 2**42)
    monkeypatch.setattr("fastsvs.training.machine.present", lambda: machine)


def test_what_this_machine_cannot_hold_is_refused_under_torchrun(inputs, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "32")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    machine = Present("cpu", 0, 2**34)
    monkeypatch.setattr("fastsvs.training.machine.present", lambda: machine)
    config, overrides = str(CONFIGS / "qwen2.5_32b_svs.yaml"), inputs(PUBLISHED["qwen2.5_32b"])
    assert main(["train", config, *overrides, "--dry-run"]) == 2
    assert "a node's host memory takes" in capsys.readouterr().err


# Counted by hand. Qwen2.5-3B: the embedding 151936 x 2048 is also the head; 36 layers of
# 2048 x (2048 + 1) + 2 x 256 x (2048 + 1) + 2048 x 2048 + 3 x 2048 x 11008 + 2 x 2048; 2048 of the last norm.
# A stage of Qwen2.5-32B at TP 4 x PP 2: 152064 / 4 x 5120 for the head, 32 layers of
# (5120 x 5121 + 2 x 1024 x 5121 + 5120 x 5120 + 3 x 5120 x 27648) / 4 + 2 x 5120, and 5120: 4,095,734,784.
# A rank of Llama-3.1-8B at TP 2: 2 x 128256 / 2 x 4096 + 32 x ((2 x 4096 x 4096 + 2 x 1024 x 4096
# + 3 x 4096 x 14336) / 2 + 2 x 4096) + 4096: 4,015,263,744.
EXPECTED = {
    "qwen2.5_3b": ("3,085.9 M parameters, TP 1 x PP 1", 3_085_938_688),
    "llama3.1_8b": ("8,030.3 M parameters, TP 2 x PP 1", 4_015_263_744),
    "qwen2.5_32b": ("32,763.9 M parameters, TP 4 x PP 2", 4_095_734_784),
}


@pytest.mark.parametrize("method", ["svs", "rlvr"])
@pytest.mark.parametrize("name", EXPECTED)
def test_paper_scale_from_a_config_json_alone(inputs, capsys, tmp_path, name, method):
    overrides = inputs(PUBLISHED[name])
    config = CONFIGS / f"{name}_{method}.yaml"
    assert main(["train", str(config), *overrides, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    model, parameters = EXPECTED[name]
    gib = parameters / 2**30
    assert model in shown
    assert f"{2 * gib:.2f} weights + {4 * gib:.2f} gradients + {12 * gib:.2f} optimizer" in shown
    assert "8 prompts of 8 rows" in shown
    (tmp_path / "resolved.yaml").write_text(shown)
    assert load(TrainJob, tmp_path / "resolved.yaml") == load(TrainJob, config, overrides)
    assert not (tmp_path / "run").exists()


# Four nodes: two of them serve, or all of them do both in turn.
@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize(
    ("name", "data_parallel", "offload"),
    [("qwen2.5_32b_svs", 2, "none"), ("qwen2.5_32b_svs_colocated", 4, "optimizer")],
)
def test_optimizer_is_sharded_over_data_parallel_ranks(inputs, capsys, monkeypatch, name, data_parallel, offload):
    monkeypatch.setenv("WORLD_SIZE", "32")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    overrides = inputs(PUBLISHED["qwen2.5_32b"])
    assert main(["train", str(CONFIGS / f"{name}.yaml"), *overrides, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"data parallel {data_parallel}" in shown
    assert f"{12 * 4_095_734_784 / data_parallel / 2**30:.2f} optimizer" in shown
    assert f"offload: {offload}" in shown


# Bytes that a token of the first stage takes in each of 2 micro-batches in flight, as `policy` saves them. A layer of
# Qwen2.5-32B at TP 4 with sequence parallelism has 5120 / 4 = 1280 values of 2 bytes as its input. Inside it saves the
# inputs of 2 norms with an fp32 number each, those of 2 projections, (40 + 2 x 8) x 128 / 4 projected and
# (40 + 8) x 128 / 4 rotated values, attention's output of 1280 values with 10 fp32 numbers, and 3 x 27648 / 4 of the
# gated product. A stage has 32 layers; the row's rotary angles take 512 bytes, a token's id 8.
INPUT, OUTPUT = 2 * 1280, 2 * 1280 + 40
INSIDE = 4 * INPUT + 2 * 4 / 4 + 2 * (1792 + 1536) + OUTPUT + 2 * 20736
KEPT = {
    ("recompute=full",): 32 * INPUT,
    ("recompute=full", "recompute_layers=4"): 8 * INPUT,
    ("recompute=full", "recompute_method=block", "recompute_layers=32"): 32 * INPUT,
    ("recompute=full", "recompute_method=block", "recompute_layers=24"): 24 * INPUT + 8 * INSIDE,
    ("recompute=all_but_attention",): 32 * (INPUT + OUTPUT),
    ("recompute=none",): 32 * INSIDE,
}
TOGETHER = {("recompute=full", "recompute_layers=4"): 4, ("recompute=none",): 0}
"""Layers that are computed again at once, where it is not one. Their insides come on top, and so do the gradients of
one layer: 2 x 27648 / 4 + 2 x 5120 values of a token, and its largest matrix, 2 x 27648 / 4 x 5120 values."""


@pytest.mark.parametrize("settings", KEPT, ids=" ".join)
def test_activations_by_what_is_computed_again(inputs, capsys, settings):
    overrides = [*inputs(PUBLISHED["qwen2.5_32b"]), "policy.recompute_method=uniform", "policy.recompute_layers=1"]
    changes = [f"policy.{setting}" for setting in settings]
    assert main(["train", str(CONFIGS / "qwen2.5_32b_svs.yaml"), *overrides, *changes, "--dry-run"]) == 0
    kept = 2 * (KEPT[settings] + 512 + 8)
    gradients = 2 * (13824 + 10240)
    backward = 12288 * (TOGETHER.get(settings, 1) * INSIDE + gradients) + 2 * 13824 * 5120
    gib = (12288 * kept + backward) / 2**30
    assert f"{gib:.2f} activations of 12288 tokens" in capsys.readouterr().out


def test_outside_torchrun_the_machines_can_be_named(inputs, capsys):
    config = str(CONFIGS / "qwen2.5_32b_svs.yaml")
    overrides = inputs(PUBLISHED["qwen2.5_32b"])
    assert main(["train", config, *overrides, "--dry-run"]) == 0
    assert "data parallel 1: the fewest processes, 8" in capsys.readouterr().out
    assert main(["train", config, *overrides, "--dry-run", "--nodes", "4", "--gpus", "8"]) == 0
    shown = capsys.readouterr().out
    assert "data parallel 2)" in shown
    assert f"{12 * 4_095_734_784 / 2 / 2**30:.2f} optimizer" in shown
    assert main(["train", config, *overrides, "--dry-run", "--nodes", "3", "--gpus", "4"]) == 2
    assert "needs a multiple of 8 processes, there are 4" in capsys.readouterr().err
    assert main(["train", config, *overrides, "--nodes", "4"]) == 2
    assert "belong to --dry-run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "extra", "message"),
    [
        ({}, ["policy.recompute_layers=5"], "policy.recompute_layers=5 does not divide the 36 layers"),
        ({}, ["policy.recompute_method=block", "policy.recompute_layers=37"], "more than the 36 layers of a"),
        ({}, ["policy.recompute=none", "policy.recompute_layers=2"], "but recompute is none"),
        ({}, ["policy.backend=te", "policy.recompute=all_but_attention"], "backend: te needs dtype: bf16"),
        ({"num_hidden_layers": 35}, ["policy.pipeline_parallel=2"], "policy.pipeline_parallel=2 does not divide"),
        ({}, ["policy.tensor_parallel=4"], "policy.tensor_parallel=4 does not divide the model's key/value heads (2)"),
        ({"max_position_embeddings": 4096}, [], "has positions for 4096: lower data.max_prompt_tokens or"),
        ({"vocab_size": 300}, [], "has embeddings for 300: point model.tokenizer at the model's own"),
        ({"use_sliding_window": True, "max_window_layers": 0}, [], "sliding-window attention"),
        ({"model_type": "gemma3"}, [], "model type 'gemma3"),
        ({}, ["policy.tokens_per_micro_batch=8192"], "over policy.tokens_per_micro_batch (8192)"),
    ],
)
def test_models_and_layouts_that_cannot_work(inputs, capsys, changes, extra, message):
    overrides = inputs(PUBLISHED["qwen2.5_3b"] | changes)
    assert main(["train", str(CONFIGS / "qwen2.5_3b_svs.yaml"), *overrides, *extra, "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_a_tensor_of_another_shape_is_named(tmp_path):
    config = PUBLISHED["qwen2.5_3b"] | {"num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    hf = AutoConfig.from_pretrained(tmp_path)
    ours = read_architecture(hf)
    check_tensors(hf, ours)
    hf.num_key_value_heads = 4
    with pytest.raises(UserError, match=r"4 tensors .*k_proj.bias: expected \(256,\), the model has \(512,\)"):
        check_tensors(hf, ours)


def test_overrides_may_follow_the_option(inputs, capsys):
    overrides = inputs(PUBLISHED["qwen2.5_3b"])
    config = str(CONFIGS / "qwen2.5_3b_svs.yaml")
    assert main(["train", config, *overrides, "--dry-run", "run.seed=7", "run.steps=2"]) == 0
    shown = capsys.readouterr().out
    assert "seed: 7" in shown
    assert "steps: 2" in shown


@pytest.mark.usefixtures("roomy")
def test_several_processes_show_it_once(inputs, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    overrides = inputs(PUBLISHED["qwen2.5_3b"])
    assert main(["train", str(CONFIGS / "qwen2.5_3b_svs.yaml"), *overrides, "--dry-run"]) == 0
    assert not capsys.readouterr().out


def test_sft_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    places = [f"run.dir={tmp_path}/run", "data.limit=16"]
    assert main(["sft", "configs/tiny_sft.yaml", *places, "--dry-run"]) == 0
    assert "16 encoded examples of 16 rows" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())
