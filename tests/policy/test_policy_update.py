"""What an update promises: invariance, determinism, bf16 masters, schedules, faults that are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from policy_cases import (
    GSPO,
    PPO,
    hf_gradients,
    make_batch,
    relative_error,
    save_model,
    surprised,
    surprised_by_token,
)
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3MoeConfig,
)

from fastsvs.algorithms import PolicyLoss, Reduction, TokenLoss, TokenTerms, is_token_level, policy_loss, token_level
from fastsvs.config import AlgorithmConfig, ModelConfig, OptimizerConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.policy import Policy, TokenWatch

FP32 = PolicyConfig(dtype="fp32", recompute="none", tokens_per_micro_batch=4096)
WEIGHTS = torch.linspace(1e-3, 5e-3, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model("qwen2-tied", tmp_path_factory.mktemp("model")))


def build(folder: str, config: PolicyConfig = FP32, **changes: object) -> Policy:
    arguments = {"seed": 0, "total_updates": 8, "max_sequence_tokens": 128} | changes
    return Policy(ModelConfig(path=folder), config, **arguments)  # type: ignore[arg-type]


def likelihood(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    return TokenLoss(-terms.logprobs, {"nll": -terms.logprobs.detach()})


def gradients(
    policy: Policy, order: list[int], algorithm: AlgorithmConfig = GSPO, loss: PolicyLoss | None = None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    batch = make_batch().select(order)
    metrics = policy.accumulate_gradients(batch, loss or policy_loss(algorithm), algorithm, WEIGHTS[order], 1.0)
    return metrics, {name: value.clone() for name, value in hf_gradients(policy).items()}


@pytest.mark.parametrize("algorithm", [GSPO, PPO], ids=lambda algorithm: algorithm.loss)
@pytest.mark.parametrize("budget", [70, 200])
def test_gradient_depends_neither_on_order_nor_on_micro_batches(
    folder: str, budget: int, algorithm: AlgorithmConfig
) -> None:
    expected_metrics, expected = gradients(build(folder), list(range(12)), algorithm)
    small = build(folder, FP32.model_copy(update={"tokens_per_micro_batch": budget}))
    metrics, actual = gradients(small, [7, 3, 11, 0, 5, 1, 9, 2, 10, 4, 8, 6], algorithm)
    assert metrics == pytest.approx(expected_metrics, rel=1e-5)
    for name, gradient in expected.items():
        assert relative_error(actual[name], gradient) < 1e-5, name


@pytest.mark.parametrize("model", ["qwen2-tied", "qwen3-untied"])
def test_one_pass_gives_what_log_probs_and_autograd_give(model: str, tmp_path: Path) -> None:
    """Of the settings that the kernel knows, of a marked loss of one's own, and of the same loss without the mark."""
    policy = build(str(save_model(model, tmp_path)), FP32.model_copy(update={"tokens_per_micro_batch": 150}))
    complete = policy_loss(PPO)

    def unmarked(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
        return complete(terms, config)

    @token_level
    def marked(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
        return complete(terms, config)

    assert is_token_level(complete)
    expected_metrics, expected = gradients(policy, list(range(12)), PPO, unmarked)
    for loss in (complete, marked):
        metrics, actual = gradients(policy, list(range(12)), PPO, loss)
        assert metrics == pytest.approx(expected_metrics, rel=1e-5)
        for name, gradient in expected.items():
            assert relative_error(actual[name], gradient) < 1e-5, name


@pytest.mark.parametrize("several_updates", [False, True])
def test_difference_to_the_engine_is_that_of_the_log_probs(folder: str, several_updates: bool) -> None:
    """Mean, largest and KL, over several micro-batches."""
    policy = build(folder, FP32.model_copy(update={"tokens_per_micro_batch": 150}))
    batch = make_batch()
    old = batch.old_logprobs if several_updates else policy.log_probs(batch, 1.0)
    batch = replace(batch, old_logprobs=old if several_updates else None)
    metrics = policy.accumulate_gradients(batch, policy_loss(PPO), PPO, WEIGHTS, 1.0)
    difference = old - batch.rollout_logprobs
    assert metrics["rollout_mismatch"] == pytest.approx(float(difference.abs().mean()), rel=1e-5)
    assert metrics["rollout_mismatch_max"] == pytest.approx(float(difference.abs().max()), rel=1e-5)
    assert metrics["rollout_kl"] == pytest.approx(float((difference.exp() - difference - 1).mean()), rel=1e-4)


def test_two_identical_runs_give_identical_bits(folder: str) -> None:
    def run() -> tuple[list[dict[str, float]], dict[str, Tensor]]:
        policy = build(folder, FP32.model_copy(update={"tokens_per_micro_batch": 150}))
        metrics = [policy.update(make_batch(), policy_loss(GSPO), GSPO, WEIGHTS, 1.0) for _ in range(3)]
        return metrics, {name: value.clone() for name, value in policy.hf_weights()}

    (first_metrics, first), (second_metrics, second) = run(), run()
    assert first_metrics == second_metrics
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_bf16_policy_accumulates_updates_too_small_for_its_weights(folder: str) -> None:
    """One step of 1e-4 vanishes in a bf16 weight of about 1; the fp32 masters add them up until they show."""
    optimizer = OptimizerConfig(learning_rate=1e-4, weight_decay=0.0)
    config = PolicyConfig(dtype="bf16", recompute="full", tokens_per_micro_batch=200, optimizer=optimizer)
    policy = build(folder, config, total_updates=40)
    name = "model.norm.weight"

    def norm_weight() -> Tensor:
        return dict(policy.hf_weights())[name].clone()

    start, losses = norm_weight(), []
    assert torch.equal(start, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()[name])
    for update in range(40):
        losses.append(policy.update(make_batch(), likelihood, GSPO, WEIGHTS, 1.0)["loss"])
        if update == 0:
            assert torch.equal(norm_weight(), start)
    assert losses[-1] < losses[0]
    assert (norm_weight() != start).any()


def test_a_frozen_policy_lives_beside_a_trained_one(folder: str) -> None:
    trained, reference = build(folder), build(folder, total_updates=0)
    before = reference.log_probs(make_batch(), 1.0)
    assert torch.equal(trained.log_probs(make_batch(), 1.0), before)
    trained.update(make_batch(), likelihood, GSPO, WEIGHTS, 1.0)
    assert torch.equal(reference.log_probs(make_batch(), 1.0), before)
    assert not torch.equal(trained.log_probs(make_batch(), 1.0), before)


def test_metrics_are_means_over_response_tokens(folder: str) -> None:
    policy, batch = build(folder), make_batch()
    logprobs = policy.log_probs(batch, 1.0)
    metrics = policy.update(batch, likelihood, GSPO, WEIGHTS, 1.0)
    assert metrics["nll"] == pytest.approx(-logprobs.mean().item(), rel=1e-5)
    weights = WEIGHTS.repeat_interleave(batch.response_lengths)
    assert metrics["loss"] == pytest.approx(-(weights * logprobs).sum().item(), rel=1e-5)


@pytest.mark.parametrize("loss", [surprised, surprised_by_token])
def test_every_metric_is_reduced_as_it_says_whatever_its_name(folder: str, loss: PolicyLoss) -> None:
    """Over several micro-batches; kinds of experience are cut out of the entropy alone."""
    policy, batch = build(folder, FP32.model_copy(update={"tokens_per_micro_batch": 150})), make_batch()
    surprise = -policy.log_probs(batch, 1.0)
    metrics = policy.accumulate_gradients(batch, loss, GSPO, WEIGHTS, 1.0)
    whole = {"mean": surprise.mean(), "sum": surprise.sum(), "maximum": surprise.max(), "minimum": surprise.min()}
    expected = {name: float(value) for name, value in whole.items()} | {"surprise_max": float(surprise.mean())}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert {way: metrics[way].reduction for way in Reduction} == {way: way for way in Reduction}
    assert metrics["surprise_max"].reduction is metrics["loss"].reduction is Reduction.MEAN


@pytest.mark.parametrize("name", ["loss", "entropy", "entropy/variant", "grad_norm", "learning_rate"])
def test_a_metric_under_a_name_of_the_trainers_own_is_refused(folder: str, name: str) -> None:
    def loss(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
        return TokenLoss(-terms.logprobs, {name: terms.logprobs})

    with pytest.raises(UserError, match=f"'{name}' is reported twice"):
        build(folder).update(make_batch(), loss, GSPO, WEIGHTS, 1.0)


def test_schedule_warms_up_and_decays(folder: str) -> None:
    optimizer = OptimizerConfig(learning_rate=4e-3, min_learning_rate=1e-3, schedule="linear", warmup_steps=3)
    policy = build(folder, FP32.model_copy(update={"optimizer": optimizer}), total_updates=6)
    rates = [policy.update(make_batch(), likelihood, GSPO, WEIGHTS, 1.0)["learning_rate"] for _ in range(6)]
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 3e-3, 2e-3])
    policy = build(folder, FP32.model_copy(update={"optimizer": optimizer}), total_updates=6)
    rates = [
        policy.update(make_batch(), likelihood, GSPO, WEIGHTS, 1.0, schedule_step=step)["learning_rate"]
        for step in (0, 0, 3, 4, 4, 5)  # steps of several updates, and one without any
    ]
    assert rates == pytest.approx([1e-3, 1e-3, 4e-3, 3e-3, 3e-3, 2e-3])
    assert policy.updates == 6


def test_a_gradient_that_is_not_finite_changes_nothing(folder: str) -> None:
    policy = build(folder)
    before = {name: value.clone() for name, value in policy.hf_weights()}
    with pytest.raises(FloatingPointError, match="no update was made"):
        policy.update(make_batch(), likelihood, GSPO, WEIGHTS * float("nan"), 1.0)
    assert all(torch.equal(value, before[name]) for name, value in policy.hf_weights())


def test_faults_of_the_batch_are_told(folder: str) -> None:
    with pytest.raises(UserError, match="longer than the 16"):
        build(folder, max_sequence_tokens=16).log_probs(make_batch(), 1.0)
    batch = make_batch()
    batch.prompt_ids[3] = batch.prompt_ids[3][:0]  # type: ignore[index]
    with pytest.raises(UserError, match="prompt without tokens"):
        build(folder).log_probs(batch, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tensor_parallel": 3},
            "tensor_parallel=3 does not divide the model's attention heads .4.; possible: 1, 2, 4",
        ),
        ({"tensor_parallel": 4}, "tensor_parallel=4 does not divide the model's key/value heads .2.; possible: 1, 2"),
        ({"pipeline_parallel": 3}, "pipeline_parallel=3 does not divide the model's layers .4.; possible: 1, 2, 4"),
        ({"tensor_parallel": 2}, "needs a multiple of 2 processes, there are 1"),
        ({"optimizer": OptimizerConfig(warmup_steps=8)}, "warmup_steps=8 must be less than the run's 8 updates"),
        ({"optimizer": OptimizerConfig(min_learning_rate=1.0)}, "min_learning_rate=1.0 must not exceed"),
    ],
)
def test_faults_of_the_layout_are_told(folder: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(folder, FP32.model_copy(update=change))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GPT2Config(), "model type 'gpt2' is not supported; supported: qwen2, qwen3, llama"),
        (LlamaConfig(attention_bias=True), "attention_bias"),
        (Qwen2Config(use_sliding_window=True, max_window_layers=0), "sliding-window.*use_sliding_window to false"),
        (Qwen3MoeConfig(use_sliding_window=True), "sliding-window.*use_sliding_window to false"),
        (MixtralConfig(sliding_window=8), "sliding-window.*sliding_window to null"),
        (LlamaConfig(partial_rotary_factor=0.5), "partial_rotary_factor=0.5 .only 1"),
        (
            LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            "rope_type='dynamic'",
        ),
    ],
)
def test_models_that_it_would_compute_wrongly_are_refused(config: object, message: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=message):
        build(str(tmp_path))


def test_weights_that_do_not_fit_are_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no readable Hugging Face model config"):
        build(str(tmp_path))
    config = Qwen2Config.from_pretrained(folder)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="initialize=random"):
        build(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes((Path(folder) / "model.safetensors").read_bytes())
    config.intermediate_size = 64
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"mlp.* has shape .*, config.json makes it"):
        build(str(tmp_path))
    config.tie_word_embeddings = False
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"lm_head\.weight is missing"):
        build(str(tmp_path))


@pytest.mark.parametrize("loss", [policy_loss(PPO), surprised], ids=["in one pass", "by way of log-probs"])
def test_what_an_update_finds_for_watched_tokens_is_what_the_policy_says_before_it(
    folder: str, loss: PolicyLoss
) -> None:
    policy, batch = build(folder, FP32.model_copy(update={"tokens_per_micro_batch": 150})), make_batch()
    expected = policy.statistics(batch, 0.7)
    parts = [each.split(batch.response_lengths.tolist()) for each in (expected.logprobs, expected.entropy)]
    watch, names = TokenWatch(), [(f"{sample // 4}", sample % 4) for sample in range(12)]
    order = [7, 2, 11, 5, 0]
    watched = replace(batch, watched=[name if sample != 2 else None for sample, name in enumerate(names)]).select(order)
    policy.update(watched, loss, PPO, WEIGHTS[order], 0.7, watch=watch)
    found = watch.gathered()
    assert found.keys() == {names[sample] for sample in order if sample != 2}
    for sample in (7, 11, 5, 0):
        assert torch.allclose(found[names[sample]], torch.stack([part[sample] for part in parts]), atol=1e-5)
