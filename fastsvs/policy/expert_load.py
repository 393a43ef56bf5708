"""The load of a model's experts over a pass, and what is reported of it."""

from __future__ import annotations

from bisect import bisect_left
from math import log

import torch
import torch.distributed as dist
from torch import Tensor

from fastsvs import distributed
from fastsvs.algorithms import Metric
from fastsvs.architecture import Architecture
from fastsvs.policy.degrees import stage_layers
from fastsvs.policy.mixture import Routing


class Routings:
    """The routing of the rows of one rank in one pass."""

    def __init__(self, architecture: Architecture, tokens: int, device: torch.device) -> None:
        """Prepare for a pass over `tokens` tokens on all ranks."""
        assert architecture.experts is not None
        self._layers, self._experts = architecture.expert_layers, architecture.experts.count
        stage = stage_layers(architecture.layers)
        self._own = slice(*(bisect_left(self._layers, bound) for bound in (stage.start, stage.stop)))
        """Places of the stage's layers among all with experts."""
        self._tokens = tokens
        self._device = device
        self._rows: list[Routing] = []

    def of_row(self, tokens: int, whole: int, replay: Tensor | None = None) -> Routing:
        """Return the routing of the next row, which has `whole` tokens beside padding; `tokens` of them are this
        rank's. `replay` has the experts that are to compute these, [tokens with padding, layers with experts of all
        stages, active] int16, -1 where the router chooses."""
        layers = self._own.stop - self._own.start
        if replay is not None:
            replay = replay[:, self._own].transpose(0, 1).to(self._device, torch.int64)
        row = Routing(
            tokens=tokens,
            share=whole / max(self._tokens, 1),
            counts=torch.zeros(layers, self._experts, dtype=torch.int64, device=self._device),
            aux_losses=torch.zeros(layers, device=self._device),
            replay=replay,
        )
        self._rows.append(row)
        return row

    def metrics(self) -> dict[str, Metric]:
        """Return the figures of the pass, the same on every rank. Collective.

        For each layer with experts, under its number in the network, and over all of them: `experts/entropy`, the
        entropy of the experts' shares of the load, where 1 is an even load (over all layers the mean), and
        `experts/largest_share`, the largest of these shares (over all layers the largest). `experts/aux_loss` is the
        mean of the layers' auxiliary losses, where it is on.
        """
        experts = self._experts
        sums = torch.zeros(len(self._layers), experts + 1, dtype=torch.float64, device=self._device)
        for row in self._rows:
            sums[self._own, :experts] += row.counts
            sums[self._own, experts] += row.aux_losses * row.share
        if distributed.world_size() > 1:
            dist.all_reduce(sums)
        load, aux = sums.cpu().split([experts, 1], dim=1)
        entropy, largest = even_entropy(load), (load / load.sum(1, keepdim=True)).amax(1)
        found: dict[str, float] = {}
        for name, values in (("entropy", entropy), ("largest_share", largest)):
            by_layer = zip(self._layers, values.tolist(), strict=True)
            found |= {f"experts/{name}/layer_{layer}": value for layer, value in by_layer}
        found |= {"experts/entropy": entropy.mean().item(), "experts/largest_share": largest.max().item()}
        if aux.any():
            found["experts/aux_loss"] = aux.mean().item()
        return {name: Metric(value) for name, value in found.items()}


def even_entropy(load: Tensor) -> Tensor:
    """Return the entropy of each row of `load` [layers, experts], in units of that of an even load: [layers]."""
    shares = load / load.sum(1, keepdim=True)
    return torch.special.entr(shares).sum(1) / log(max(load.shape[1], 2))
