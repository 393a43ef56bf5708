"""Provider: verl's Triton linear cross entropy."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import torch

from bench.kernels.inputs import Inputs
from bench.kernels.providers import alone
from bench.kernels.providers.base import Outputs, Provider, Work, loss_of
from bench.kernels.suites import Operator


def providers(operator: Operator, gpu: bool) -> Iterator[Provider]:
    if operator != "logprob_entropy" and gpu:
        yield Provider("verl", lambda: _work(operator), unequal="four products", complete=True)


def _work(operator: Operator) -> Work:
    function = load().LinearCrossEntropy.apply

    def work(inputs: Inputs) -> Outputs:
        logprobs, entropy = function(inputs.hidden, inputs.weight, inputs.targets, 1.0, "none", None)
        return (loss_of(logprobs, entropy, inputs),) if operator == "linear_policy_loss" else (logprobs, entropy)

    return work


def load() -> ModuleType:
    device = {
        "is_cuda_available": torch.cuda.is_available(),
        "get_device_capability": torch.cuda.get_device_capability,
        "get_device_name": lambda: "cuda",
        "get_torch_device": lambda: torch.cuda,
    }
    return alone.load("verl.utils.kernel.linear_cross_entropy", {"verl.utils.device": device})
