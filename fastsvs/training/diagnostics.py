"""A closer look at a step, every so many steps: the MetricFns of `dynamics.metrics`, as `dynamics/...` in
metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from fastsvs import distributed
from fastsvs.algorithms import Batch, joined
from fastsvs.config import DynamicsConfig, TrainJob
from fastsvs.dynamics import METRICS, UNCHANGED, Change, WeightUpdate, compare, entropy_metric, rank_metric
from fastsvs.errors import UserError
from fastsvs.policy import Policy, PolicyStatistics, hf_shapes, open_source

T = TypeVar("T")


def is_due(job: TrainJob, step: int) -> bool:
    """Return True every `dynamics.every` steps, the first and the last step among them; `step` counts from 0."""
    every = job.dynamics.every
    return every > 0 and (step % every == 0 or step + 1 == job.run.steps)


@torch.no_grad()
def measure(
    job: TrainJob, policy: Policy, step: int, batch: Batch, rows: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return figures of the policy before the update of `step`, counted from 0, of the batch that it is about to learn
    from, and of the step's samples as the main rank records them (elsewhere `rows` are not read). Collective; draws no
    random numbers. Raises UserError where a MetricFn gives something else than numbers, or the name of another's
    figure."""
    view = _Step(job, policy, step, batch, rows)
    figures = joined(*(numbers(name, METRICS.get(name)(view)) for name in job.dynamics.metrics))
    return {f"dynamics/{name}": value for name, value in figures.items()}


def numbers(metric: str, figures: Mapping[str, float]) -> Mapping[str, float]:
    """Return the figures that the MetricFn called `metric` gave. Raises UserError where one is no number."""
    for name, value in figures.items():
        if not isinstance(value, int | float):
            raise UserError(f"metric {metric!r} gave {name!r} the value {value!r}; it must be a Python number")
    return figures


def policy_figures(policy: Policy, batch: Batch, config: DynamicsConfig, temperature: float) -> dict[str, float]:
    """Return figures of the entropy of every response token, and of the ranks of some responses' hidden states.
    Collective."""
    view = PolicyView(policy, batch, config, temperature)
    ranks = rank_metric(view)  # first, as its pass over the batch gives the entropies too
    return joined(entropy_metric(view), ranks)


class PolicyView:
    """A batch under a policy, as a `BatchView`."""

    def __init__(self, policy: Policy, batch: Batch, config: DynamicsConfig, temperature: float) -> None:
        self.batch = batch
        self.config = config
        self._policy = policy
        self._temperature = temperature
        self._seen: PolicyStatistics | None = None

    def logprobs(self) -> Tensor:
        return self._statistics().logprobs

    def entropy(self) -> Tensor:
        return self._statistics().entropy

    def hidden(self, samples: Sequence[int], look: Callable[[list[Tensor]], Tensor]) -> Tensor:
        if not samples:
            return torch.zeros(0, 0)
        self._seen = self._policy.statistics(
            self.batch, self._temperature, set(samples), lambda states: look(states).cpu()
        )
        return torch.stack([self._seen.hidden[sample] for sample in samples])

    def _statistics(self) -> PolicyStatistics:
        if not len(self.batch):
            nothing = torch.zeros(0)
            return PolicyStatistics(nothing, nothing, nothing, {})
        self._seen = self._seen or self._policy.statistics(self.batch, self._temperature)
        return self._seen


def total_change(policy: Policy) -> Change:
    """Compare the weights with those that the run began with, each rank its share. Collective."""
    return sum_over_ranks(compare(policy.compared_weights()), list(hf_shapes(policy.architecture))).total()


def sum_over_ranks(own: WeightUpdate, names: Sequence[str]) -> WeightUpdate:
    """Return the changes of the tensors `names`, of which each rank has some parts. Collective."""
    table = own.table(names).to(distributed.device())
    if distributed.world_size() > 1:
        dist.all_reduce(table)
    return WeightUpdate.of_table(names, table.cpu())


class _Step(PolicyView):
    """A step of a run, as a `StepView`."""

    def __init__(
        self, job: TrainJob, policy: Policy, step: int, batch: Batch, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        super().__init__(policy, batch, job.dynamics, job.rollout.temperature)
        self._step = step
        self._rows = rows
        self._job = job

    def samples(self, look: Callable[[Sequence[Mapping[str, Any]]], T]) -> T:
        return cast(T, distributed.broadcast(look(self._rows) if distributed.is_main() else None))

    def change(self) -> Change:
        return total_change(self._policy) if self._step else UNCHANGED

    def weights(self, look: Callable[[Tensor, Tensor], T]) -> dict[str, T]:
        found: dict[str, T] = {}
        first = None
        if distributed.is_main():
            first = open_source(self._job.model, self._policy.architecture, self._job.run.seed)
        for name, now in self._policy.hf_weights():
            if first is not None:
                found[name] = look(first.read(name, None, 0, 0).to(now.dtype), now.cpu())
        return distributed.broadcast(found)
