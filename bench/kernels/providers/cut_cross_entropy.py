"""Provider: Apple's cut cross entropy, with its gradient filter and exact."""

from __future__ import annotations

from collections.abc import Iterator

from bench.kernels.inputs import Inputs
from bench.kernels.providers.base import Outputs, Provider, Work, loss_of
from bench.kernels.suites import Operator


def providers(operator: Operator, gpu: bool) -> Iterator[Provider]:
    if operator != "linear_policy_loss" or not gpu:
        return
    for name, filtered in (("cut-cross-entropy, filtered", "auto"), ("cut-cross-entropy, exact", None)):
        note = "no entropy; four products; not deterministic" + ("; small gradients left out" if filtered else "")
        yield Provider(name, lambda filtered=filtered: _work(filtered), unequal=note)


def _work(filtered: str | None) -> Work:
    from cut_cross_entropy import linear_cross_entropy

    def work(inputs: Inputs) -> Outputs:
        nll = linear_cross_entropy(
            inputs.hidden, inputs.weight, inputs.targets, reduction="none", filter_eps=filtered, impl="cce"
        )
        return (loss_of(-nll, None, inputs),)

    return work
