"""Error to float64 on few tokens of a case, beside that of plain PyTorch on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from bench.kernels.inputs import Inputs, make
from bench.kernels.measure import attempt, differentiate
from bench.kernels.providers import Provider
from bench.kernels.providers.base import Outputs, Work, loss_of
from bench.kernels.suites import Case
from bench.report import Row

TOKENS = 256


def errors(case: Case, contenders: Sequence[Provider], device: torch.device) -> Iterator[Row]:
    """Yield the errors of each provider on few tokens.

    They are mean and largest error of log-probs and entropies, the error of a loss, and the relative norm of the
    gradients' errors. A provider that fails is left out: the case itself has named it.
    """
    small = replace(case, tokens=min(case.tokens, TOKENS))
    works = {provider.name: work for provider in contenders if (work := attempt(provider.name, provider.prepare)[0])}
    for peaked in (False, True):
        name = f"{case.operator}/{case.shape.name}/error, {'peaked' if peaked else 'flat'} rows"
        inputs = make(small, device, torch.bfloat16, peaked=peaked, seed=1)
        exact = exact_results(small, inputs)
        for provider, work in works.items():
            found, _ = attempt(provider, partial(_results, work, inputs))
            if found is not None:
                yield from _compare(name, provider, _labels(case), found, exact)


def _results(work: Work, inputs: Inputs) -> list[Tensor]:
    outputs = work(inputs)
    return [*(output.detach() for output in outputs), *differentiate(outputs, inputs)]


def _compare(
    case: str, provider: str, labels: Sequence[str], found: Sequence[Tensor], exact: Sequence[Tensor]
) -> Iterator[Row]:
    for label, value, truth in zip(labels, found, exact, strict=True):
        difference = (value.double() - truth).abs()
        if label.startswith("gradient"):
            yield Row(case, provider, label, float(difference.norm() / truth.norm()), "relative norm")
        elif truth.ndim == 0:
            yield Row(case, provider, label, float(difference), "absolute")
        else:
            yield Row(case, provider, f"{label}, mean", float(difference.mean()), "nats")
            yield Row(case, provider, f"{label}, largest", float(difference.max()), "nats")


def exact_results(case: Case, inputs: Inputs) -> list[Tensor]:
    """Return the results of the case, and their gradients, in float64."""

    def wide(values: Tensor) -> Tensor:
        return values.detach().double().requires_grad_(values.requires_grad)

    logits = None if inputs.logits is None else wide(inputs.logits)
    same = replace(inputs, hidden=wide(inputs.hidden), weight=wide(inputs.weight), logits=logits)
    outputs = _in_float64(case, same)
    return [*(output.detach() for output in outputs), *differentiate(outputs, same)]


def _in_float64(case: Case, inputs: Inputs) -> Outputs:
    logits = inputs.hidden @ inputs.weight.t() if inputs.logits is None else inputs.logits
    logp = logits.log_softmax(-1)
    logprobs, entropy = logp.gather(-1, inputs.targets[:, None]).squeeze(-1), -(logp.exp() * logp).sum(-1)
    return (loss_of(logprobs, entropy, inputs),) if case.operator == "linear_policy_loss" else (logprobs, entropy)


def _labels(case: Case) -> list[str]:
    if case.operator == "logprob_entropy":
        return ["log-prob", "entropy", "gradient of logits"]
    results = ["loss"] if case.operator == "linear_policy_loss" else ["log-prob", "entropy"]
    return [*results, "gradient of hidden", "gradient of weight"]
