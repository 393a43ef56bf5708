"""`--dry-run`: the run's own preflight, and facts about the model beyond it: size, tensors and memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from fastsvs import config, distributed
from fastsvs.architecture import Architecture, read_architecture
from fastsvs.commands import evaluate, self_improve, sft
from fastsvs.config import EvalJob, PolicyConfig, SelfJob, SftJob, TrainJob
from fastsvs.errors import UserError
from fastsvs.files import free_bytes, in_words
from fastsvs.policy import checkpoint, hf_shapes, megatron_shapes
from fastsvs.rollout import read_nodes
from fastsvs.training import preflight

GIB = 2**30
WIDTH = {"fp32": 4, "bf16": 2}


def check_train(job: TrainJob) -> str:
    """Return what the job would do, as its resolved configuration under comments. Raises UserError for the first thing
    that would stop it."""
    processes = distributed.launched_world_size() and read_nodes(job.rollout).trainers
    checked = preflight(job, processes, at_disk=_at_disk())
    return _report([*checked.inputs.facts, *checked.advice, *describe_model(job, checked.hf_config, processes)], job)


def check_sft(job: SftJob) -> str:
    """Check a fine-tuning job as `check_train` does."""
    processes = distributed.launched_world_size()
    checked = sft.preflight(job, processes, at_disk=_at_disk())
    return _report([*checked.facts, *describe_model(job, checked.hf_config, processes)], job)


def check_self(job: SelfJob) -> str:
    """Check a job of `fastsvs self` as `check_train` does."""
    processes = distributed.launched_world_size()
    inputs = self_improve.preflight(job, processes, at_disk=_at_disk())
    return _report([*inputs.facts, *describe_model(job, inputs.hf_config, processes)], job)


def check_eval(job: EvalJob) -> str:
    """Check an evaluation job as `check_train` does. The model to evaluate must be there."""
    inputs = evaluate.preflight(job, here=distributed.launched_world_size() is not None)
    return _report([*inputs.facts, f"{job.model.path}: step {inputs.stored.step}"], job)


def _at_disk() -> bool:
    """Return True under torchrun itself: a dry run elsewhere may be far from the disk that the run writes to."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def describe_model(job: TrainJob | SftJob | SelfJob, hf: PretrainedConfig, processes: int | None) -> list[str]:
    """Describe the model's size and layout, and the memory that each of the training `processes` needs (None: as many
    as the layout takes). Raises UserError where the trainer would not know the model's tensors."""
    architecture, policy = read_architecture(hf), job.policy
    check_tensors(hf, architecture)
    stages = [_stage_parameters(architecture, policy, stage) for stage in range(policy.pipeline_parallel)]
    total = sum(prod(shape) for shape in hf_shapes(architecture).values())
    return [
        f"{job.model.path}: {hf.model_type}, {total / 1e6:,.1f} M parameters, "
        f"TP {policy.tensor_parallel} x PP {policy.pipeline_parallel}",
        *_memory_facts(architecture, policy, stages, processes),
        _disk_fact(job, architecture),
    ]


def check_tensors(hf: PretrainedConfig, architecture: Architecture) -> None:
    """Check that the mapping names every tensor of transformers' own model with its shape, and no other. Raises
    UserError where it does not."""
    with torch.device("meta"):
        reference = AutoModelForCausalLM.from_config(hf)
    theirs = {name: tuple(tensor.shape) for name, tensor in reference.named_parameters()}
    ours = hf_shapes(architecture)
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if wrong:
        facts = "; ".join(f"{name}: expected {ours.get(name)}, the model has {theirs.get(name)}" for name in wrong[:5])
        raise UserError(f"{len(wrong)} tensors of this {hf.model_type} model are not as the trainer expects: {facts}")


def _report(facts: Sequence[str], job: TrainJob | SftJob | SelfJob | EvalJob) -> str:
    return "\n".join([*(f"# {fact}" for fact in facts), config.dump(job)])


def _stage_parameters(architecture: Architecture, policy: PolicyConfig, stage: int) -> int:
    shapes = megatron_shapes(architecture, policy.tensor_parallel, policy.pipeline_parallel, stage)
    return sum(prod(shape) for shape in shapes.values())


def _memory_facts(
    architecture: Architecture, policy: PolicyConfig, stages: Sequence[int], processes: int | None
) -> list[str]:
    """Estimate the memory of a rank: weights, fp32 gradients, Adam's moments and bf16's fp32 masters, and the
    activations of the largest micro-batch."""
    width = WIDTH[policy.dtype]
    model_parallel = policy.tensor_parallel * policy.pipeline_parallel
    data_parallel = max(1, (processes or model_parallel) // model_parallel)
    weights = max(stages) * width
    gradients = max(stages) * 4
    optimizer = max(stages) * (8 if policy.dtype == "fp32" else 12) / data_parallel
    activations = _activation_bytes(architecture, policy, width)
    total = weights + gradients + optimizer + activations
    # Masters and moments, also where the masters are the weights. The last stage may own a tied embedding once more.
    saved = max(stages) * 12 / data_parallel
    state = {"none": 0.0, "optimizer": optimizer, "all": optimizer + weights}[policy.offload]
    stays = {"none": weights + gradients + optimizer, "optimizer": weights, "all": 0.0}[policy.offload]
    return [
        f"memory per rank (estimate, data parallel {data_parallel}): {total / GIB:.2f} GiB = "
        f"{weights / GIB:.2f} weights + {gradients / GIB:.2f} gradients + {optimizer / GIB:.2f} optimizer + "
        f"{activations / GIB:.2f} activations of {policy.tokens_per_micro_batch} tokens; "
        "the rollout engine and the runtime come on top",
        f"while rollouts run {stays / GIB:.2f} GiB of it stay on the device (policy.offload={policy.offload})",
        f"host memory per rank (estimate): {(saved + state) / GIB:.2f} GiB = {saved / GIB:.2f} checkpoint on its way "
        f"+ {state / GIB:.2f} offloaded",
    ]


def _disk_fact(job: TrainJob | SftJob | SelfJob, architecture: Architecture) -> str:
    each, free = checkpoint.state_bytes(architecture, job.policy.tensor_parallel), free_bytes(Path(job.run.dir))
    return (
        f"disk: {in_words(each)} a checkpoint, up to {job.run.keep_checkpoints + 1} at a time; "
        f"{'an unknown number of bytes' if free is None else in_words(free)} free in run.dir as seen from here"
    )


def _activation_bytes(architecture: Architecture, policy: PolicyConfig, width: int) -> float:
    """Estimate the bytes of the tensors kept for backward: all insides of the layers that are not computed again; of
    those that are, one input for as many as are computed together, attention's output where it is left out, and the
    insides of as many. A pipeline keeps as many micro-batches in flight as it has stages."""
    a, tensor = architecture, policy.tensor_parallel
    layers = a.layers // policy.pipeline_parallel
    sharded = tensor if policy.sequence_parallel else 1
    attention = (a.heads + 2 * a.groups) * a.head_dim * 2 + a.heads * a.head_dim
    inside = 4 * a.hidden / sharded + (attention + 4 * a.ffn) / tensor
    output = a.heads * a.head_dim / tensor if policy.recompute == "all_but_attention" else 0
    again, together = _recomputed_layers(policy, layers)
    kept = (layers - again + together) * inside + again * output + (again / (together or 1)) * a.hidden / sharded
    return policy.tokens_per_micro_batch * width * kept * policy.pipeline_parallel


def _recomputed_layers(policy: PolicyConfig, layers: int) -> tuple[int, int]:
    """Return how many of a stage's layers are computed again, and how many of them at once."""
    if policy.recompute == "none":
        return 0, 0
    return (policy.recompute_layers, 1) if policy.recompute_method == "block" else (layers, policy.recompute_layers)
