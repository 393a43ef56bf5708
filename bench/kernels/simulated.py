"""Simulation of the approximate forms without a GPU: how many tokens go, and how large the errors are. No times.

Tokens left out: entropies are drawn from a log-normal distribution through the two points that are published of
Qwen3-8B's reasoning (arXiv 2506.01939, section 3: 50.64% of the tokens below 0.01 nats, 20% above 0.672). A row has
one likely entry, and OTHERS that share the rest of the probability, so that it has its entropy; the target is drawn
from the row, and advantages are normal. Kept logits: the operators on a CPU, with the gradient of the logits rounded to
bf16 as on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from statistics import NormalDist
from unittest.mock import patch

import torch
from torch import Tensor

from bench.kernels.accuracy import exact_results
from bench.kernels.inputs import make
from bench.kernels.measure import differentiate
from bench.kernels.ours import kernels
from bench.kernels.suites import Case, Shape
from bench.report import Row

BELOW, ABOVE = (0.5064, 0.01), (0.80, 0.672)
"""Published points: share of the tokens below an entropy in nats."""
OTHERS = 50
TOKENS, PIECE, VOCABULARY, HIDDEN = 8192, 2048, 4096, 128
SHARES = {"2^-12": 2.0**-12, "2^-9": 2.0**-9, "2^-6": 2.0**-6}
KEPT = Case("linear_logprob_entropy", Shape("simulated", 256, 16384), 192, ("both",))


@dataclass(frozen=True, slots=True)
class Tokens:
    likely: Tensor
    """Probability of the likely entry of each row, [tokens]; each of the others has 1 / OTHERS of the rest."""
    entropy: Tensor
    hit: Tensor
    """True where the target is the likely entry."""
    slope: Tensor
    """Gradient of the loss in the target's log-prob."""

    @property
    def logprobs(self) -> Tensor:
        """Return the log-probs of the targets, [tokens]."""
        return torch.where(self.hit, self.likely, (1 - self.likely) / OTHERS).log()


def simulate() -> Iterator[list[Row]]:
    """Yield the rows of the suite."""
    torch.manual_seed(0)
    tokens = draw(TOKENS)
    yield list(left_out(tokens))
    yield list(errors_of_leaving_out(tokens))
    for peaked in (False, True):
        yield list(errors_of_keeping(peaked))


def draw(count: int) -> Tokens:
    normal = NormalDist()
    (low, at_low), (high, at_high) = ((normal.inv_cdf(share), entropy) for share, entropy in (BELOW, ABOVE))
    logs = torch.tensor([at_low, at_high], dtype=torch.float64).log()
    spread = (logs[1] - logs[0]) / (high - low)
    drawn = (logs[0] + spread * (torch.randn(count, dtype=torch.float64) - low)).exp()
    least, most = torch.full_like(drawn, 1 / (OTHERS + 1)), torch.ones_like(drawn)
    for _ in range(60):  # the entropy falls as the likely entry grows
        middle = (least + most) / 2
        above = entropy_of(middle) > drawn
        least, most = torch.where(above, middle, least), torch.where(above, most, middle)
    hit = torch.rand(count, dtype=torch.float64) < least
    return Tokens(least, entropy_of(least), hit, torch.randn(count, dtype=torch.float64))


def entropy_of(likely: Tensor) -> Tensor:
    rest = 1 - likely
    return torch.special.entr(likely) + OTHERS * torch.special.entr(rest / OTHERS)


def that_count(tokens: Tokens, tau: float) -> Tensor:
    rules = import_module(f"{kernels.__name__}.left_out")
    bounds = rules.gradient_bounds(tokens.logprobs, tokens.entropy, None, tokens.slope, None)
    return torch.cat([rules.that_count(piece, tau) for piece in bounds.split(PIECE)])


def left_out(tokens: Tokens) -> Iterator[Row]:
    for name, tau in SHARES.items():
        share = 1 - float(that_count(tokens, tau).double().mean())
        whose = f"fastsvs, exact=False, tau={name}"
        yield Row("simulated/tokens left out", whose, "tokens", 100 * share, "%", note="simulated")
        yield Row("simulated/tokens left out", whose, "products, of 3", 3 - 2 * share, "products", note="simulated")


def errors_of_leaving_out(tokens: Tokens) -> Iterator[Row]:
    """Yield relative norms of the errors of dX and dW on random states and weights, beside what rounding to bf16
    costs."""
    rows = torch.arange(TOKENS)[:, None]
    entries = torch.rand(TOKENS, VOCABULARY).topk(OTHERS + 1).indices
    target = torch.where(tokens.hit, 0, 1)
    probabilities = torch.cat([tokens.likely[:, None], ((1 - tokens.likely) / OTHERS)[:, None].expand(-1, OTHERS)], 1)
    slopes = -probabilities
    slopes[torch.arange(TOKENS), target] += 1
    gradient = torch.zeros(TOKENS, VOCABULARY)
    gradient[rows, entries] = (tokens.slope[:, None] * slopes).float()
    x, w = torch.randn(TOKENS, HIDDEN), torch.randn(VOCABULARY, HIDDEN)
    true = gradient @ w, gradient.t() @ x
    forms = {"gradient rounded to bf16": gradient.bfloat16().float()}
    for name, tau in SHARES.items():
        forms[f"fastsvs, exact=False, tau={name}"] = gradient * that_count(tokens, tau)[:, None]
    for provider, form in forms.items():
        for metric, found, exactly in zip(("hidden", "weight"), (form @ w, form.t() @ x), true, strict=True):
            error = float((found - exactly).norm() / exactly.norm())
            name = "simulated/error, tokens left out"
            yield Row(name, provider, f"gradient of {metric}", error, "relative norm", note="simulated")


def errors_of_keeping(peaked: bool) -> Iterator[Row]:
    inputs = make(KEPT, torch.device("cpu"), torch.bfloat16, peaked=peaked, seed=1, model_dtype=torch.bfloat16)
    true = exact_results(KEPT, inputs)
    logp = (inputs.hidden @ inputs.weight.t()).float().log_softmax(-1)
    plain = logp.gather(-1, inputs.targets[:, None]).squeeze(-1), -(logp.exp() * logp).sum(-1)
    forms = {"logits rounded to bf16": plain}
    with ExitStack() as stack:
        for name in ("linear_logprob", "kept_logits", "pieces"):
            module = import_module(f"{kernels.__name__}.{name}")
            stack.enter_context(patch.object(module, "operand_dtype", lambda like: like.dtype))
        for provider, keep in (("fastsvs", True), ("fastsvs, logits made again", False)):
            forms[provider] = kernels.linear_logprob_entropy(
                inputs.hidden, inputs.weight, inputs.targets, keep_logits=keep, workspace_bytes=1 << 30
            )
        case = f"simulated/error, kept logits, {'peaked' if peaked else 'flat'} rows"
        for provider, outputs in forms.items():
            gradients = list(differentiate(outputs, inputs))
            for metric, found, exactly in zip(("hidden", "weight"), gradients, true[2:], strict=True):
                error = float((found.double() - exactly).norm() / exactly.norm())
                yield Row(case, provider, f"gradient of {metric}", error, "relative norm", note="simulated")
