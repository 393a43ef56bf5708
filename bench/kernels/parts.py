"""Time of the policy loss by part: its parts one after the other on one piece, or one group, of tokens."""

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
    """Yield the milliseconds of each part for all tokens of the case.

    Each part is timed alone, on as many tokens as the default workspace gives it. `limit` is the part's own floor: its
    product, or the bytes of fp32 logits and bf16 gradient that it reads and writes.
    """
    dispatch, cutting, vocabulary = (
        import_module(f"{kernels.__name__}.{name}") for name in ("dispatch", "pieces", "vocabulary")
    )
    inputs = make(case, device, torch.bfloat16)
    group = cutting.row_groups(case.tokens, case.shape.vocabulary, inputs.hidden, None)[0]
    piece, together = group[0], slice(0, group[-1].stop)
    x, w, targets = inputs.hidden.detach(), inputs.weight.detach(), inputs.targets[piece]
    share = vocabulary.share(case.shape.vocabulary, case.shape.vocabulary, 0, None)
    logits = dispatch.new_tile(piece.stop, case.shape.vocabulary, x, torch.float32)
    gradient = dispatch.new_tile(together.stop, case.shape.vocabulary, x, dispatch.operand_dtype(x))
    rows, policy = dispatch.row_kernels(logits), dispatch.policy_kernels(x)
    weights = torch.full_like(inputs.advantages, inputs.token_weight)
    terms = kernels.TokenInputs(inputs.advantages, weights, inputs.old_logprobs)
    x_grad, total = (torch.zeros_like(of, dtype=logits.dtype) for of in (x[together], w))
    dispatch.write_product(x[piece], w.t(), logits)
    statistics, logprobs, entropy = share.merge(share.statistics(logits, targets, None), targets)
    slopes = policy.token_gradients(SETTINGS, logprobs, entropy, terms, piece)
    work: dict[str, tuple[slice, Callable[[], object]]] = {
        "product: logits": (piece, lambda: dispatch.write_product(x[piece], w.t(), logits)),
        "row statistics": (piece, lambda: share.merge(share.statistics(logits, targets, None), targets)),
        "token loss": (piece, lambda: policy.token_gradients(SETTINGS, logprobs, entropy, terms, piece)),
        "gradient of logits": (
            piece,
            lambda: rows.logits_gradient(
                logits, statistics, targets, 0, None, slopes.logprobs, slopes.entropy, None, gradient[piece]
            ),
        ),
        "product: hidden": (together, lambda: dispatch.write_product(gradient, w, x_grad)),
        "product: weight": (together, lambda: dispatch.add_product(gradient.t(), x[together], total)),
    }
    for at in group:
        gradient[at].copy_(logits[: at.stop - at.start])  # no product is timed on what memory happens to hold
    product, cells = ceilings.of_flop(case.shape, case.flop("forward")), float(case.tokens) * case.shape.vocabulary
    floors = {"row statistics": ceilings.of_bytes(4 * cells), "gradient of logits": ceilings.of_bytes(6 * cells)}
    for _tokens, part in work.values():
        part()  # compiles
    times = [[clock(part) for _tokens, part in work.values()] for _ in range(rounds)]
    for (name, (tokens, _part)), milliseconds in zip(work.items(), zip(*times, strict=True), strict=True):
        limit = product if name.startswith("product") else floors.get(name)
        of_all = median(milliseconds) * case.tokens / (tokens.stop - tokens.start)
        yield Row(f"{case.name}/parts", "fastsvs", name, of_all, "ms", limit)
