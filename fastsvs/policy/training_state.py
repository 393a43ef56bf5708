"""Training state that an update changes: fp32 masters and Adam moments, in pieces from which any layout can be built.
With adapters it is theirs alone: the frozen weights are those of the model, and are not stored.

Each rank stores exactly what it owns: for each parameter of its stage, the flat stretch of its tensor-parallel shard
that the distributed optimizer keeps there. Names are Megatron's with the layer numbers of the whole network. A rank
reads exactly what it will own, wherever it lies (`policy.saved`). Values are only moved, so they keep their bits. The
weights are the masters rounded to the policy's dtype: they are not stored, and reading makes them from the masters,
which the ranks then pass on to one another as after an update.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastsvs.architecture import Architecture
from fastsvs.policy.degrees import Degrees, here, holds, part
from fastsvs.policy.learned import learned_entries
from fastsvs.policy.mapping import Entry
from fastsvs.policy.parallel import megatron_device
from fastsvs.policy.pieces import MASTER, MOMENTS, PieceIndex, Quantity, check_finite, memory_of
from fastsvs.policy.policy import Policy
from fastsvs.policy.regions import Range, shard_region, whole_shapes
from fastsvs.policy.tensor_file import Read
from fastsvs.policy.weights import WeightSource, stage_shards


def pieces(policy: Policy) -> dict[str, Tensor]:
    """Return what this rank has to store: `quantity/parameter/rank among its parts/start` -> flat fp32 tensor, which
    the optimizer goes on to use."""
    names = _stored_names(policy.architecture)
    found = {}
    for owned in owned_by_rank(policy):
        if owned.parameter in names:
            place = f"{names[owned.parameter]}/{owned.start}"
            found[f"{MASTER}/{place}"] = owned.master.detach()
            for moment in MOMENTS if owned.state else ():
                found[f"{moment}/{place}"] = owned.state[moment]
    return found


class Restoration:
    """State that is read from a checkpoint into host memory, and put in place when all of it is there.

    A frozen policy takes the weights alone.
    """

    def __init__(self, policy: Policy, index: PieceIndex, written: Degrees, updates: int) -> None:
        """Plan to read what the `pieces` of all ranks hold, written at those degrees after that many `updates`; the
        index must have been checked for that."""
        self._policy = policy
        self._updates = updates
        self._values: dict[tuple[str, str], Tensor] = {}
        self.reads: dict[int, list[Read]] = {}
        """Reads of this rank, by the number of the file in the index."""
        for quantity in (MASTER, *(MOMENTS if updates and _learns(policy) else ())):
            self._plan(Quantity(index, quantity, policy.architecture, written), quantity)

    def check(self) -> None:
        """Raise UserError when a value that was read is not finite."""
        for (quantity, parameter), values in self._values.items():
            check_finite(values, f"{quantity}/{parameter}")

    def apply(self) -> None:
        """Put the values that were read in place. Collective."""
        if not _learns(self._policy):
            parameters = dict(self._policy.stage.named_parameters())
            for (_, name), values in self._values.items():
                parameters[name].data.copy_(values.view(parameters[name].shape))
            return
        for owned in owned_by_rank(self._policy):
            owned.master.data.copy_(self._values[MASTER, owned.parameter])
            owned.reset(self._updates)
            for moment in MOMENTS if self._updates else ():
                owned.state[moment].copy_(self._values[moment, owned.parameter])
        _spread_weights(self._policy)
        self._policy.updates = self._updates

    def _plan(self, saved: Quantity, quantity: str) -> None:
        architecture, shapes = self._policy.architecture, whole_shapes(self._policy.architecture)
        layout, whole = here(), _whole_entries(architecture)
        for name, entry, (start, end) in _needed(self._policy):
            owner = whole[entry.sources]
            region = shard_region(architecture, owner, shapes[owner.name], layout.parts(entry), part(entry))
            values = torch.zeros(end - start)  # what pads a vocabulary is nowhere, and 0
            self._values[quantity, name] = values
            wanted = min(start, region.size), min(end, region.size)
            for file, read in saved.reads(owner, region, wanted, memory_of(values)):
                self.reads.setdefault(file, []).append(read)


def replace_weights(policy: Policy, source: WeightSource, *, keep_moments: bool) -> None:
    """Replace the policy's weights by those of `source`, and keep Adam's moments or drop them. Collective."""
    owned = {part.parameter: part for part in owned_by_rank(policy)}
    for entry, shard in stage_shards(policy.architecture, source):
        if entry.name in owned:
            part = owned[entry.name]
            part.master.data.copy_(shard.reshape(-1)[part.start : part.end])
    if not keep_moments:
        for part in owned.values():
            part.reset(0)
        policy.updates = 0
    _spread_weights(policy)


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


def owned_by_rank(policy: Policy) -> Iterator[Owned]:
    """Yield the optimizer state of this rank."""
    names = {parameter: name for name, parameter in policy.stage.named_parameters()}
    for optimizer in policy.optimizer.chained_optimizers:
        for parameter, (group, order) in optimizer.model_param_group_index_map.items():
            stretch = optimizer._get_model_param_range_map(parameter)["param"]
            master = optimizer.optimizer.param_groups[group]["params"][order]
            yield Owned(names[parameter], stretch.start, stretch.end, master, optimizer.optimizer)


def _stored_names(architecture: Architecture) -> dict[str, str]:
    """Return the parameters that this rank stores: their name on it -> `parameter/rank among its parts`, with the name
    in the whole network. A copy is stored by its owner, and a replicated parameter by the first rank of its parts."""
    whole = _whole_entries(architecture)
    return {
        entry.name: f"{whole[entry.sources].name}/{part(entry)}"
        for entry in _own_entries(architecture)
        if not entry.copy and (entry.cut is not None or part(entry) == 0)
    }


def _needed(policy: Policy) -> Iterator[tuple[str, Entry, Range]]:
    """Yield the parameters of this rank's stage, with the stretch of the flat shard that is to be read: what the rank
    owns, or everything for a frozen policy."""
    found = {entry.name: entry for entry in _own_entries(policy.architecture)}
    if _learns(policy):
        for owned in owned_by_rank(policy):
            yield owned.parameter, found[owned.parameter], (owned.start, owned.end)
    else:
        for name, parameter in policy.stage.named_parameters():
            if name in found:
                yield name, found[name], (0, parameter.numel())


def _spread_weights(policy: Policy) -> None:
    """Make the weights from the masters, as after an update."""
    with megatron_device():
        for optimizer in policy.optimizer.chained_optimizers:
            optimizer._copy_main_params_to_model_params()
        policy.model.start_param_sync(force_sync=True)


def _learns(policy: Policy) -> bool:
    return hasattr(policy, "optimizer")


def _own_entries(architecture: Architecture) -> list[Entry]:
    return [entry for entry in learned_entries(architecture, here()) if holds(entry)]


def _whole_entries(architecture: Architecture) -> dict[tuple[str, ...], Entry]:
    """Return what learns of the whole network, by the Hugging Face tensors that it is made of."""
    return {entry.sources: entry for entry in learned_entries(architecture, Degrees())}
