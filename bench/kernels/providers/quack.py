"""Provider: QuACK's chunked linear cross entropy (CuTe DSL, three products)."""

from __future__ import annotations

from collections.abc import Iterator

from bench.kernels.providers.base import Provider, Work
from bench.kernels.suites import Operator


def providers(operator: Operator, gpu: bool) -> Iterator[Provider]:
    if operator == "linear_policy_loss" and gpu:
        yield Provider("QuACK", _work, unequal="mean cross entropy only: no entropy, no policy loss")


def _work() -> Work:
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    return lambda inputs: (chunked_linear_cross_entropy(inputs.hidden, inputs.weight, inputs.targets),)
