"""Functions that turn rewards into advantages, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.context import Context
from fastsvs.algorithms.results import as_tensor, first_fault
from fastsvs.errors import UserError
from fastsvs.registry import Registry

AdvantageFn = Callable[[Batch, Context], Tensor]
"""Function of a batch whose advantages are not set yet (`rewards`, `groups`, `kinds`, log-probs). It returns
`[samples]`, given to every token of the response, or `[response_tokens]`."""

ADVANTAGES = Registry[AdvantageFn]("advantage", takes=("batch", "context"))


def token_advantages(batch: Batch, context: Context) -> Tensor:
    """Return the advantages `[response_tokens]` fp32 from the AdvantageFn that the configuration names.

    A sample's value is given to all of its own response tokens, whatever its kind. Raises UserError when the
    AdvantageFn is unknown or returns another shape or a value that is not finite.
    """
    name = context.config.advantage
    advantages = as_tensor(f"advantage {name!r}", ADVANTAGES.get(name)(batch, context))
    lengths = batch.response_lengths
    samples, tokens = len(batch), int(lengths.sum())
    if advantages.shape not in {(samples,), (tokens,)}:
        raise UserError(
            f"advantage {name!r} returned shape {tuple(advantages.shape)}; "
            f"it must be [samples] = ({samples},) or [response_tokens] = ({tokens},)"
        )
    if not advantages.isfinite().all():
        raise UserError(f"advantage {name!r} returned a value that is not finite ({first_fault(advantages)})")
    return advantages if advantages.shape == (tokens,) else advantages.repeat_interleave(lengths)
