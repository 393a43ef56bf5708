"""Weights in and out of a Megatron stage: from safetensors or a seed, and back as Hugging Face tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Protocol

import torch
import torch.distributed as dist
from megatron.core import parallel_state as mpu
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from torch import Tensor, nn
from torch.nn import functional as F

from fastsvs.architecture import Architecture
from fastsvs.config import ModelConfig
from fastsvs.policy.degrees import Degrees, here, holds, part, part_group
from fastsvs.policy.learned import adapter_entries, adapter_shapes, megatron_shapes
from fastsvs.policy.mapping import Entry, Shape, cut_ranges, entries, hf_shapes, join, merge
from fastsvs.policy.safetensors_folder import SafetensorsWeights, check_local_weights
from fastsvs.seeding import derive_seed

LEAST_DECAY, MOST_DECAY = 0.01, 16.0
"""Bounds between which the rates are drawn at which the state of a gated delta net decays."""
Listing = Callable[[Architecture, Degrees], Iterator[Entry]]
"""Function that lists parameters: those of the model, or those of its adapters."""


class WeightSource(Protocol):
    """A source of a model's tensors under their Hugging Face names."""

    def read(self, name: str, cut: int | None, start: int, end: int) -> Tensor:
        """Return the tensor, or its part [start, end) along dimension `cut`."""
        ...


class RandomWeights:
    """Random weights: norms multiply by 1, biases are 0, and of a gated delta net, the logarithms of decay rates those
    of numbers up to MOST_DECAY, and their biases 1; the rest is normal. They are drawn per tensor name from the seed,
    so they are the same for every layout."""

    def __init__(self, architecture: Architecture, seed: int) -> None:
        self._shapes = hf_shapes(architecture)
        self._std = architecture.initializer_range
        self._centred = architecture.centred_norm
        self._seed = seed

    def read(self, name: str, cut: int | None, start: int, end: int) -> Tensor:
        """Draw a tensor, or return a part of it; see `WeightSource`."""
        whole = self._draw(name)
        return whole if cut is None else whole.narrow(cut, start, end - start)

    def _draw(self, name: str) -> Tensor:
        shape = self._shapes[name]
        generator = torch.Generator().manual_seed(derive_seed(self._seed, name))
        if name.endswith("A_log"):
            return torch.empty(shape).uniform_(LEAST_DECAY, MOST_DECAY, generator=generator).log()
        if len(shape) == 1:
            zero = name.endswith("_proj.bias") or (self._centred and name.endswith("norm.weight"))
            return torch.zeros(shape) if zero and not name.endswith("linear_attn.norm.weight") else torch.ones(shape)
        return torch.randn(shape, generator=generator) * self._std


def open_source(model: ModelConfig, architecture: Architecture, seed: int) -> WeightSource:
    """Return the source of the weights that a run with this model begins with."""
    if model.initialize == "random":
        return RandomWeights(architecture, seed)
    return SafetensorsWeights(model.path, architecture)


def check_weights(model: ModelConfig, architecture: Architecture) -> None:
    """Check the weights that a run with this model begins with, as far as this machine has them. Raises UserError for
    weights that cannot be read or are another model's."""
    if model.initialize == "pretrained":
        check_local_weights(model.path, architecture)


def load_weights(
    model: nn.Module, architecture: Architecture, source: WeightSource, adapters: WeightSource | None = None
) -> None:
    """Fill this rank's stage from `source`, and its adapters, if it has any, from `adapters`."""
    parameters = dict(model.named_parameters())
    stage, expert_rank = mpu.get_pipeline_model_parallel_rank(), mpu.get_expert_model_parallel_rank()
    expected = megatron_shapes(architecture, here(), stage, expert_rank)
    actual = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    assert actual == expected, f"mapping and model disagree: {set(actual.items()) ^ set(expected.items())}"
    shards = [stage_shards(architecture, source)]
    if adapters is not None:
        shards.append(stage_shards(architecture, adapters, adapter_entries))
    for entry, shard in chain.from_iterable(shards):
        parameter = parameters[entry.name]
        parameter.data.copy_(shard)
        if entry.cut is not None and not hasattr(parameter, "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(parameter, True, entry.cut, 1)


def stage_shards(
    architecture: Architecture, source: WeightSource, which: Listing = entries
) -> Iterator[tuple[Entry, Tensor]]:
    """Yield every parameter of those that `which` lists that this rank has, with its shard of it, read from
    `source`."""
    layout, shapes = here(), hf_shapes(architecture) | adapter_shapes(architecture)
    for entry in which(architecture, layout):
        if holds(entry):
            place = layout.parts(entry), part(entry)
            cuts = [_read_cut(architecture, entry, name, shapes[name], source, *place) for name in entry.sources]
            yield entry, merge(entry, cuts, architecture)


def hf_weights(
    tensors: Mapping[str, Tensor], architecture: Architecture, which: Listing = entries
) -> Iterator[tuple[str, Tensor]]:
    """Yield whole Hugging Face tensors on every rank, layer by layer. `tensors` is what each rank holds under the names
    of the parameters that `which` lists: weights or gradients. Collective. A tensor may share memory with the model:
    copy it to keep it."""
    shapes = hf_shapes(architecture) | adapter_shapes(architecture)
    example = next(iter(tensors.values()))
    for entry in which(architecture, here()):
        if entry.copy:
            continue
        if holds(entry):
            whole = join(entry, _gather_to_all(entry, tensors[entry.name]), architecture)
        else:
            whole = [(name, example.new_empty(shapes[name])) for name in entry.sources]
        for name, value in whole:
            yield name, _from_holder(value, entry)


def _read_cut(
    architecture: Architecture, entry: Entry, name: str, shape: Shape, source: WeightSource, parts: int, rank: int
) -> Tensor:
    if entry.cut is None:
        return source.read(name, None, 0, 0)
    found, size = [], shape[entry.cut]
    for start, end in cut_ranges(architecture, entry, name, shape, parts, rank):
        part = source.read(name, entry.cut, min(start, size), min(end, size))
        padding = end - start - part.shape[entry.cut]
        found.append(F.pad(part, (0, 0, 0, padding)) if padding else part)
    return torch.cat(found, dim=entry.cut) if len(found) > 1 else found[0]


def _gather_to_all(entry: Entry, shard: Tensor) -> list[Tensor]:
    parts = here().parts(entry)
    if entry.cut is None or parts == 1:
        return [shard.detach()]
    shards = [torch.empty_like(shard) for _ in range(parts)]
    dist.all_gather(shards, shard.detach().contiguous(), group=part_group(entry))
    return shards


def _from_holder(value: Tensor, entry: Entry) -> Tensor:
    """Bring the value from the ranks that hold it to those of other expert-parallel ranks, then of other stages."""
    if entry.expert_rank is not None and entry.stage == mpu.get_pipeline_model_parallel_rank():
        value = _broadcast(value, entry.expert_rank, mpu.get_expert_model_parallel_group())
    return _broadcast(value, entry.stage, mpu.get_pipeline_model_parallel_group())


def _broadcast(value: Tensor, source: int, group: dist.ProcessGroup) -> Tensor:
    if group.size() == 1:
        return value
    value = value.contiguous()
    dist.broadcast(value, src=dist.get_global_rank(group, source), group=group)
    return value
