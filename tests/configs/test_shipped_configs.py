"""Every file of configs/ loads, and the paper-scale ones hold the paper's constants and layouts that fit."""

from pathlib import Path

import pytest
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from fastsvs.architecture import read_architecture
from fastsvs.config import EvalJob, SelfJob, SftJob, TrainedModelConfig, TrainJob, load
from fastsvs.evaluate import published_tables
from fastsvs.layout_checks import check_layout

CONFIGS = Path(__file__).parents[2] / "configs"
PAPER_SCALE = ("qwen2.5_3b", "llama3.1_8b", "qwen2.5_32b")
PAPER_PAIRS = sorted(
    str(path.relative_to(CONFIGS)).removesuffix("_svs.yaml") for path in CONFIGS.glob("paper/*_svs.yaml")
)
GPUS = {"qwen2.5_3b": 8, "llama3.1_8b": 8, "qwen2.5_32b": 16}
"""That train; at 32B two of the four nodes serve."""


def published_shapes(name: str) -> PretrainedConfig:
    """The models' config.json on the hub, as far as a layout depends on it."""
    match name:
        case "qwen2.5_3b":
            return Qwen2Config(
                hidden_size=2048,
                intermediate_size=11008,
                num_hidden_layers=36,
                num_attention_heads=16,
                num_key_value_heads=2,
                vocab_size=151936,
                tie_word_embeddings=True,
            )
        case "llama3.1_8b":
            return LlamaConfig(
                hidden_size=4096,
                intermediate_size=14336,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=8,
                vocab_size=128256,
            )
        case _:
            return Qwen2Config(
                hidden_size=5120,
                intermediate_size=27648,
                num_hidden_layers=64,
                num_attention_heads=40,
                num_key_value_heads=8,
                vocab_size=152064,
            )


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_loads(path):
    schema = {"sft": SftJob, "self": SelfJob, "eval": EvalJob}.get(path.stem.rsplit("_", 1)[-1], TrainJob)
    assert isinstance(load(schema, path), schema)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("eval/*.yaml")), ids=lambda path: path.stem)
def test_every_suite_loads(path):
    if path.stem != "base":
        job = load(EvalJob, path)
        assert path.stem in job.sets or path.stem.startswith("paper")
        assert all(plan.temperature == 1.0 and plan.top_p == 0.7 for plan in job.sets.values())


@pytest.mark.parametrize("name", [*PAPER_SCALE, *PAPER_PAIRS])
@pytest.mark.parametrize("method", ["svs", "rlvr"])
def test_paper_scale_constants(name, method):
    job = load(TrainJob, CONFIGS / f"{name}_{method}.yaml")
    large = name in ("qwen2.5_32b", "paper/32b_dapo17k")
    assert job.selfplay.stage == {"svs": "svs", "rlvr": "none"}[method]
    assert (job.run.prompts_per_step, job.rollout.samples_per_prompt, job.run.steps) == (256, 8, 600 if large else 300)
    assert (job.data.max_prompt_tokens, job.rollout.max_response_tokens) == (4096, 8192)
    assert not job.data.deduplicate
    assert (job.rollout.temperature, job.rollout.top_p, job.rollout.top_k) == (1.0, 1.0, -1)
    assert (job.selfplay.context_range, job.selfplay.positive_range) == ((0.125, 0.5), (0.125, 0.625))
    assert (job.selfplay.variants_per_context, job.selfplay.samples_per_variant) == (8, 8)
    algorithm = job.algorithm
    assert (algorithm.advantage, algorithm.normalize_by_std, algorithm.loss) == ("grpo", True, "ppo")
    assert (algorithm.clip_low, algorithm.clip_high, algorithm.dual_clip) == (0.2, 0.28, 3.0)
    assert (algorithm.aggregation, algorithm.samples_per_update, algorithm.updates) == ("token_mean", 2048, "filled")
    assert (algorithm.kl_coefficient, algorithm.entropy_coefficient) == (0, 0)
    optimizer = job.policy.optimizer
    assert (optimizer.learning_rate, optimizer.schedule, optimizer.warmup_steps) == (1e-6, "constant", 0)
    assert (optimizer.weight_decay, optimizer.betas, optimizer.max_grad_norm) == (0.01, (0.9, 0.999), 1.0)
    assert (job.evaluation.every, job.run.save_every) == (8, 4)
    assert job.policy.tokens_per_micro_batch == job.data.max_prompt_tokens + job.rollout.max_response_tokens


@pytest.mark.parametrize("name", PAPER_SCALE)
def test_paper_scale_layouts_fit_the_models(name):
    job = load(TrainJob, CONFIGS / f"{name}_svs.yaml")
    check_layout(read_architecture(published_shapes(name)), job.policy, GPUS[name])


@pytest.mark.parametrize("name", ["tiny", "smollm2", *PAPER_SCALE, *PAPER_PAIRS])
def test_rlvr_differs_from_svs_in_self_play_and_in_what_its_mean_counts(name):
    svs, rlvr = (load(TrainJob, CONFIGS / f"{name}_{method}.yaml").model_dump() for method in ("svs", "rlvr"))
    assert svs["selfplay"].pop("stage") == "svs"
    assert rlvr["selfplay"].pop("stage") == "none"
    assert svs["run"].pop("dir") != rlvr["run"].pop("dir")
    rlvr_counts = "kept" if name.startswith(("tiny", "smollm2")) else "all"
    assert (svs["algorithm"].pop("denominator"), rlvr["algorithm"].pop("denominator")) == ("kept", rlvr_counts)
    assert svs == rlvr


def test_every_row_of_the_paper_that_was_trained_or_is_a_base_has_its_configurations():
    rows = [row for table in published_tables().values() for row in table]
    of_others = {"Qwen2.5-32B", "SimpleRL-32B", "ORZ-32B", "SvS, DAPO-25k (with open-ended problems)"}
    assert {row.model for row in rows if row.evaluation is None} == of_others
    named = {row.evaluation for row in rows if row.evaluation}
    assert named == {f"paper/{path.stem}" for path in CONFIGS.glob("paper/*_eval.yaml")}
    trained = {name.removesuffix("_eval") for name in named if "_base_" not in name}
    others = [path for path in CONFIGS.glob("paper/*.yaml") if not path.stem.endswith("_eval")]
    assert trained == {f"paper/{path.stem}" for path in others}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("paper/*_eval.yaml")), ids=lambda path: path.stem)
def test_a_row_of_the_paper_is_evaluated_on_all_its_sets_with_the_model_of_its_run(path):
    job = load(EvalJob, path)
    size, kind = path.stem.removesuffix("_eval").split("_", 1)
    rows = [row for table in published_tables().values() for row in table if row.evaluation == f"paper/{path.stem}"]
    for row in rows:
        assert row.size.lower() == size
        assert row.values.keys() <= job.chosen.keys()
        assert all(int(row.metric.removeprefix("pass@")) in job.sets[name].k for name in row.values)
    assert job.output == f"runs/paper/{path.stem}"
    if kind == "base":
        assert Path(job.model.path).name == rows[0].model
    else:
        run = load(TrainJob, path.with_name(f"{size}_{kind}.yaml"))
        data, method = rows[0].model.split(", ")[::-1]
        assert job.model.path == run.run.dir
        base = load(EvalJob, path.with_name(f"{size}_base_eval.yaml")).model
        assert run.model == TrainedModelConfig(**base.model_dump())
        assert {"MATH-12k": "math12k", "DAPO-17k": "dapo_math_17k"}[data] in run.data.path
        assert run.selfplay.stage == {"SvS": "svs", "RLVR": "none"}[method]
