"""Error to float64 on few tokens of a case, beside that of plain PyTorch on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from bench.kernels.inputs import Inputs, make
from bench.kernels.measure import differentiate
from bench.kernels.providers import AbsentError, Provider
from bench.kernels.suites import Case
from bench.report import Row

TOKENS = 256


def errors(case: Case, contenders: list[Provider], device: torch.device) -> Iterator[Row]:
    """Mean and largest error of log-probs and entropies, relative norm of the gradients' errors."""
    small = replace(case, tokens=min(case.tokens, TOKENS))
    for peaked in (False, True):
        name = f"{case.operator}/{case.shape.name}/error, {'peaked' if peaked else 'flat'} rows"
        for provider in contenders:
            try:
                work = provider.prepare()
            except (AbsentError, ImportError):
                continue
            inputs = make(small, device, provider.logits_dtype, peaked=peaked, seed=1)
            exact = _exact(inputs)
            outputs = work(inputs)
            found = [*outputs, *differentiate(outputs, inputs)]
            for label, ours, truth in zip(_labels(inputs), found, exact, strict=True):
                difference = (ours.detach().double() - truth).abs()
                if label.startswith("gradient"):
                    yield Row(name, provider.name, label, float(difference.norm() / truth.norm()), "relative norm")
                else:
                    yield Row(name, provider.name, f"{label}, mean", float(difference.mean()), "nats")
                    yield Row(name, provider.name, f"{label}, largest", float(difference.max()), "nats")


def _exact(inputs: Inputs) -> list[Tensor]:
    def wide(values: Tensor) -> Tensor:
        return values.detach().double().requires_grad_(values.requires_grad)

    logits = None if inputs.logits is None else wide(inputs.logits)
    same = replace(inputs, hidden=wide(inputs.hidden), weight=wide(inputs.weight), logits=logits)
    outputs = _in_float64(same)
    return [*(output.detach() for output in outputs), *differentiate(outputs, same)]


def _in_float64(inputs: Inputs) -> tuple[Tensor, Tensor]:
    logits = inputs.hidden @ inputs.weight.t() if inputs.logits is None else inputs.logits
    logp = logits.log_softmax(-1)
    return logp.gather(-1, inputs.targets[:, None]).squeeze(-1), -(logp.exp() * logp).sum(-1)


def _labels(inputs: Inputs) -> list[str]:
    of_inputs = ["gradient of logits"] if inputs.logits is not None else ["gradient of hidden", "gradient of weight"]
    return ["log-prob", "entropy", *of_inputs]
