"""Where the time of the policy loss goes: its parts one after the other on one piece of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from statistics import median

import torch

from bench.kernels.ceilings import Ceilings
from bench.kernels.inputs import make
from bench.kernels.measure import clock
from bench.kernels.ours import kernels
from bench.kernels.providers.base import SETTINGS
from bench.kernels.suites import Case
from bench.report import Row


def parts(case: Case, device: torch.device, ceilings: Ceilings, rounds: int = 7) -> Iterator[Row]:
    """Milliseconds for all tokens of the case, each part timed alone on a piece of the default size. `limit` is the
    part's own floor: its product, or the bytes of fp32 logits and bf16 gradient that it reads and writes."""
    dispatch = import_module(f"{kernels.__name__}.dispatch")
    vocabulary = import_module(f"{kernels.__name__}.vocabulary")
    inputs = make(case, device, torch.bfloat16)
    x, w = inputs.hidden.detach(), inputs.weight.detach()
    span = dispatch.row_spans(case.tokens, case.shape.vocabulary, x, None)[0]
    x, targets, share = x[span], inputs.targets[span], vocabulary.vocabulary(case.shape.vocabulary, None, None)
    logits = dispatch.new_logits(len(x), case.shape.vocabulary, x)
    rows, policy = dispatch.row_kernels(logits), dispatch.policy_kernels(x)
    weights = torch.full_like(inputs.advantages, inputs.token_weight)
    terms = kernels.TokenInputs(inputs.advantages, weights, inputs.old_logprobs)
    x_grad, total = torch.empty_like(x), torch.zeros_like(w, dtype=logits.dtype)
    dispatch.write_logits(x, w, logits)
    statistics, logprobs, entropy = share.merge(share.statistics(logits, targets, None), targets)
    slopes = policy.token_gradients(SETTINGS, logprobs, entropy, terms, span)
    out = rows.gradient_on(logits, dispatch.operand_dtype(x))
    work: dict[str, Callable[[], object]] = {
        "product: logits": lambda: dispatch.write_logits(x, w, logits),
        "row statistics": lambda: share.merge(share.statistics(logits, targets, None), targets),
        "token loss": lambda: policy.token_gradients(SETTINGS, logprobs, entropy, terms, span),
        "gradient of logits": lambda: rows.logits_gradient(
            logits, statistics, targets, 0, None, slopes.logprobs, slopes.entropy, out
        ),
        "product: hidden": lambda: dispatch.write_product(out, w, x_grad),
        "product: weight": lambda: dispatch.add_product(total, out.t(), x),
    }
    product, cells = ceilings.of_flop(case.shape, case.flop("forward")), float(case.tokens) * case.shape.vocabulary
    floors = {"row statistics": ceilings.of_bytes(4 * cells), "gradient of logits": ceilings.of_bytes(6 * cells)}
    for part in work.values():
        part()  # compiles
    times = [[clock(part) for part in work.values()] for _ in range(rounds)]  # each finds what the one before it left
    for name, milliseconds in zip(work, zip(*times, strict=True), strict=True):
        limit = product if name.startswith("product") else floors.get(name)
        yield Row(f"{case.name}/parts", "fastsvs", name, median(milliseconds) * case.tokens / len(x), "ms", limit)
