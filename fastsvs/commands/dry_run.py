"""`--dry-run`: the run's own preflight, and facts about the model beyond it: size, tensors and memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.core_model_loading import revert_weight_conversion

from fastsvs import config, distributed
from fastsvs.architecture import Architecture, trained_architecture
from fastsvs.commands import evaluate, self_improve, sft
from fastsvs.config import EvalJob, PolicyConfig, SelfJob, SftJob, TrainJob
from fastsvs.errors import UserError
from fastsvs.files import free_bytes, in_words
from fastsvs.layout_checks import check_layout
from fastsvs.plan import (
    GIB,
    Cluster,
    DeviceKind,
    Layout,
    device_memory,
    largest_row,
    layout_of,
    snapshot_bytes,
    stage_buffers,
    total,
    total_parameters,
)
from fastsvs.policy import Degrees, checkpoint, hf_shapes
from fastsvs.rollout import read_nodes
from fastsvs.training import preflight


def check_train(job: TrainJob, cluster: Cluster | None = None) -> str:
    """Return what the job would do, as its resolved configuration under comments. Outside torchrun it is described for
    `cluster`, or for the fewest processes. Raises UserError for the first thing that would stop it."""
    processes = distributed.launched_world_size() and read_nodes(job.rollout).trainers
    checked = preflight(job, processes, at_disk=_at_disk())
    described = cluster.trainers(job.rollout) if cluster and not processes else processes
    check_layout(trained_architecture(checked.hf_config, job.policy), job.policy, described)
    return _report([*checked.inputs.facts, *checked.advice, *describe_model(job, checked.hf_config, described)], job)


def cluster_of(nodes: int | None, gpus: int | None) -> Cluster | None:
    """Return the machines that the command line names; None where it names none."""
    return Cluster(nodes or 1, gpus or 1) if nodes or gpus else None


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
    architecture, policy = trained_architecture(hf, job.policy), job.policy
    device: DeviceKind = "cuda" if torch.cuda.is_available() or policy.dtype == "bf16" else "cpu"
    layout = layout_of(policy, processes, device)
    check_tensors(hf, architecture)
    return [
        f"{job.model.path}: {hf.model_type}, {total_parameters(architecture) / 1e6:,.1f} M parameters, "
        f"{layout.degrees}",
        *_memory_facts(architecture, policy, layout, processes),
        _disk_fact(job, architecture),
    ]


def check_tensors(hf: PretrainedConfig, architecture: Architecture) -> None:
    """Check that the mapping names every tensor of transformers' own model with its shape, and no other. Raises
    UserError where it does not."""
    with torch.device("meta"):
        reference = AutoModelForCausalLM.from_config(hf)
    # Under the names of its files: in memory transformers stacks the experts of a layer.
    tensors = revert_weight_conversion(reference, dict(reference.named_parameters()))
    theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    ours = hf_shapes(architecture)
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if wrong:
        facts = "; ".join(f"{name}: expected {ours.get(name)}, the model has {theirs.get(name)}" for name in wrong[:5])
        raise UserError(f"{len(wrong)} tensors of this {hf.model_type} model are not as the trainer expects: {facts}")


def _report(facts: Sequence[str], job: TrainJob | SftJob | SelfJob | EvalJob) -> str:
    return "\n".join([*(f"# {fact}" for fact in facts), config.dump(job)])


def _memory_facts(architecture: Architecture, policy: PolicyConfig, layout: Layout, processes: int | None) -> list[str]:
    """Return the memory of the rank that takes the most, as `fastsvs plan` counts it."""
    row = largest_row(policy, layout)
    ranks = device_memory(architecture, policy, layout, row, layout.pipeline)
    rank = max(ranks, key=lambda rank: total(rank.learning))
    buffers = stage_buffers(architecture, layout, rank.stage)
    parts = {
        "weights": buffers.weights,
        "gradients": buffers.gradients,
        "optimizer": buffers.state,
        f"activations of {row.tokens} tokens": total(rank.update),
        "CUDA and fragments": total(rank.runtime),
    }
    shown = " + ".join(f"{size / GIB:.2f} {name}" for name, size in parts.items() if size)
    saved = snapshot_bytes(architecture, layout, rank.stage)
    away = {"none": 0, "optimizer": buffers.state, "all": buffers.state + buffers.weights}[policy.offload]
    world = f"data parallel {layout.data}"
    if processes is None:
        world += f": the fewest processes, {layout.ranks}; --nodes and --gpus name yours"
    return [
        f"memory per rank (estimate, {world}), stage {rank.stage} of {layout.pipeline}: "
        f"{total(rank.learning) / GIB:.2f} GiB = {shown}; the rollout engine comes on top (`fastsvs plan`)",
        f"while rollouts run {total(rank.stays) / GIB:.2f} GiB of it stay on the device "
        f"(policy.offload={policy.offload})",
        f"host memory per rank (estimate): {(saved + away) / GIB:.2f} GiB = {saved / GIB:.2f} checkpoint on its way "
        f"+ {away / GIB:.2f} offloaded",
    ]


def _disk_fact(job: TrainJob | SftJob | SelfJob, architecture: Architecture) -> str:
    each, free = checkpoint.state_bytes(architecture, Degrees.of(job.policy)), free_bytes(Path(job.run.dir))
    return (
        f"disk: {in_words(each)} a checkpoint, up to {job.run.keep_checkpoints + 1} at a time; "
        f"{'an unknown number of bytes' if free is None else in_words(free)} free in run.dir as seen from here"
    )
