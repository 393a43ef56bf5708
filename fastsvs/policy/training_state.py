"""Training state that an update changes: fp32 masters and Adam moments, in pieces from which any layout can be built.

Each rank stores exactly what it owns: for each parameter of its stage, the flat stretch of its tensor-parallel shard
that the distributed optimizer keeps there. Names are Megatron's with the layer numbers of the whole network. Reading
joins the stretches into shards and the shards into Hugging Face tensors, and cuts these for the new layout. Values are
only moved, so they keep their bits. The weights are the masters rounded to the policy's dtype, and are not stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from megatron.core import parallel_state as mpu
from torch import Tensor, nn

from fastsvs.architecture import Architecture
from fastsvs.policy.mapping import entries
from fastsvs.policy.pieces import MASTER, MOMENTS, PieceIndex, SavedTensors
from fastsvs.policy.policy import Policy
from fastsvs.policy.weights import WeightSource, load_weights, stage_shards


def pieces(policy: Policy) -> dict[str, Tensor]:
    """Return what this rank has to store: `quantity/parameter/tensor-parallel rank/start` -> flat fp32 CPU tensor."""
    names = _stored_names(policy.architecture)
    rank = mpu.get_tensor_model_parallel_rank()
    found = {}
    for owned in _owned_by_rank(policy):
        if owned.parameter in names:
            place = f"{names[owned.parameter]}/{rank}/{owned.start}"
            found[f"{MASTER}/{place}"] = owned.master.detach().cpu()
            for moment in MOMENTS if owned.state else ():
                found[f"{moment}/{place}"] = owned.state[moment].cpu()
    return found


def restore(policy: Policy, index: PieceIndex, tensor_parallel: int, updates: int) -> None:
    """Restore what all ranks' `pieces` in the `index` hold, written at that `tensor_parallel` after that many
    `updates`. A frozen policy takes the weights alone. Raises UserError when a piece is missing."""

    def source(quantity: str) -> SavedTensors:
        return SavedTensors(index, quantity, policy.architecture, tensor_parallel)

    load_weights(policy.stage, policy.architecture, source(MASTER))
    if not hasattr(policy, "optimizer"):
        return
    owned = {part.parameter: part for part in _owned_by_rank(policy)}
    for entry, shard in stage_shards(policy.architecture, source(MASTER)):
        if entry.name in owned:
            owned[entry.name].cut(shard, owned[entry.name].master)
    for part in owned.values():
        part.reset(updates)
    for moment in MOMENTS if updates else ():
        for entry, shard in stage_shards(policy.architecture, source(moment)):
            if entry.name in owned:
                owned[entry.name].cut(shard, owned[entry.name].state[moment])
    policy.updates = updates


def replace_weights(policy: Policy, source: WeightSource, *, keep_moments: bool) -> None:
    """Replace the policy's weights by those of `source`, and keep Adam's moments or drop them. Collective."""
    load_weights(policy.stage, policy.architecture, source)
    owned = {part.parameter: part for part in _owned_by_rank(policy)}
    for entry, shard in stage_shards(policy.architecture, source):
        if entry.name in owned:
            owned[entry.name].cut(shard, owned[entry.name].master)
    if not keep_moments:
        for part in owned.values():
            part.reset(0)
        policy.updates = 0


@dataclass(frozen=True, slots=True)
class Owned:
    """The stretch [start, end) of a parameter's flat shard whose optimizer state is on this rank."""

    parameter: str
    start: int
    end: int
    master: nn.Parameter
    """Master weights of the stretch, [end - start] fp32; they share memory with the parameter where that is fp32
    too."""
    adam: torch.optim.Optimizer

    @property
    def state(self) -> dict[str, Tensor]:
        """Return Adam's state of the stretch; it is empty before the first update."""
        return self.adam.state.get(self.master, {})

    def reset(self, updates: int) -> None:
        """Set the state to moments of 0 after `updates` steps, or to that of an optimizer that took none."""
        self.adam.state.pop(self.master, None)
        if updates:
            moments = {moment: torch.zeros_like(self.master) for moment in MOMENTS}
            self.adam.state[self.master] = {
                # Where the fused kernel wants it.
                "step": torch.tensor(float(updates), device=self.master.device),
                **moments,
            }

    def cut(self, shard: Tensor, into: Tensor) -> None:
        """Copy the stretch out of a whole shard into `into`, [end - start]."""
        into.data.copy_(shard.reshape(-1)[self.start : self.end])


def _owned_by_rank(policy: Policy) -> Iterator[Owned]:
    names = {parameter: name for name, parameter in policy.stage.named_parameters()}
    for optimizer in policy.optimizer.chained_optimizers:
        for parameter, (group, order) in optimizer.model_param_group_index_map.items():
            stretch = optimizer._get_model_param_range_map(parameter)["param"]
            master = optimizer.optimizer.param_groups[group]["params"][order]
            yield Owned(names[parameter], stretch.start, stretch.end, master, optimizer.optimizer)


def _stored_names(architecture: Architecture) -> dict[str, str]:
    """Return the parameters that this rank stores: their name in its stage -> their name in the whole network. A copy
    is stored by its owner, and a replicated parameter by the first tensor-parallel rank."""
    stage, first = mpu.get_pipeline_model_parallel_rank(), mpu.get_tensor_model_parallel_rank() == 0
    whole = {entry.sources: entry.name for entry in entries(architecture, 1)}
    return {
        entry.name: whole[entry.sources]
        for entry in entries(architecture, mpu.get_pipeline_model_parallel_world_size())
        if entry.stage == stage and not entry.copy and (entry.cut is not None or first)
    }
