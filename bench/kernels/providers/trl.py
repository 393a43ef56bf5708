"""TRL's Triton kernel of log-prob and entropy from logits, without the rest of TRL."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from bench.kernels.inputs import Inputs
from bench.kernels.providers.base import AbsentError, Outputs, Provider, Work
from bench.kernels.suites import Operator


def providers(operator: Operator, gpu: bool) -> Iterator[Provider]:
    if operator == "logprob_entropy" and gpu:
        yield Provider("TRL", _work, logprobs_first=True)


def _work() -> Work:
    function = load().selective_log_softmax_and_entropy

    def work(inputs: Inputs) -> Outputs:
        return function(inputs.logits, inputs.targets)

    return work


def load() -> ModuleType:
    """trl/kernels/logprob_entropy.py, which imports torch and Triton alone."""
    spec = PathFinder.find_spec("trl")
    file = Path(spec.origin).parent / "kernels" / "logprob_entropy.py" if spec and spec.origin else None
    if file is None or not file.exists():
        raise AbsentError("no trl with kernels/logprob_entropy.py is installed")
    of_file = importlib.util.spec_from_file_location("trl_logprob_entropy", file)
    assert of_file is not None
    assert of_file.loader is not None
    module = importlib.util.module_from_spec(of_file)
    of_file.loader.exec_module(module)
    return module
