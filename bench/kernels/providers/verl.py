"""verl's Triton linear cross entropy, without the rest of verl and what that imports."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import torch

from bench.kernels.inputs import Inputs
from bench.kernels.providers.base import AbsentError, Outputs, Provider, Work, loss_of
from bench.kernels.suites import Operator


def providers(operator: Operator, gpu: bool) -> Iterator[Provider]:
    if operator != "logprob_entropy" and gpu:
        yield Provider("verl", lambda: _work(operator), unequal="four products", logprobs_first=True)


def _work(operator: Operator) -> Work:
    function = load().linear_cross_entropy

    def work(inputs: Inputs) -> Outputs:
        logprobs, entropy = function(inputs.hidden, inputs.weight, inputs.targets, 1.0, "none", None)
        return (loss_of(logprobs, entropy, inputs),) if operator == "linear_policy_loss" else (logprobs, entropy)

    return work


def load() -> ModuleType:
    """verl.utils.kernel.linear_cross_entropy, its packages empty shells and its device module a stand-in."""
    spec = PathFinder.find_spec("verl")
    if spec is None or spec.origin is None:
        raise AbsentError("verl is not installed")
    root = Path(spec.origin).parent
    for name, folder in (("verl", root), ("verl.utils", root / "utils"), ("verl.utils.kernel", root / "utils/kernel")):
        shell = ModuleType(name)
        shell.__path__ = [str(folder)]
        sys.modules[name] = shell
    device = ModuleType("verl.utils.device")
    device.is_cuda_available = torch.cuda.is_available()  # type: ignore[attr-defined]
    device.get_device_capability = torch.cuda.get_device_capability  # type: ignore[attr-defined]
    device.get_device_name = lambda: "cuda"  # type: ignore[attr-defined]
    device.get_torch_device = lambda: torch.cuda  # type: ignore[attr-defined]
    sys.modules["verl.utils.device"] = device
    return importlib.import_module("verl.utils.kernel.linear_cross_entropy")
