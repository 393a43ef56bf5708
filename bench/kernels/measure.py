"""Time, memory and repeatability of providers on one case, measured in turn."""

from __future__ import annotations

import faulthandler
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from bench.kernels.inputs import Inputs
from bench.kernels.providers import AbsentError, Provider
from bench.kernels.providers.base import Outputs, Work
from bench.kernels.suites import Mode

Result = TypeVar("Result")

FLUSH_BYTES = 256 << 20
"""Number of bytes written before a timed call: more than any L2 cache."""
FLUSHES = 20
"""Number of such writes before a call.

Together they take about a millisecond. The call is issued in that time, as it would be behind the work of a training
step. So Python's time counts where a provider waits for the device, and not where the device waits for nothing.
"""
LEAST_ROUNDS = 5
PATIENCE = 180
"""Longest time that a provider may take to compile and run once, in seconds.

A kernel that hangs can be ended in no other way.
"""
NO_ROOM = "does not fit this device"


@dataclass
class Contender:
    """A provider that is ready, and what was measured of it."""

    provider: Provider
    work: Work
    inputs: Inputs
    renew: Callable[[], Inputs]
    """Function that makes the same inputs once more."""
    milliseconds: dict[Mode, list[float]] = field(default_factory=dict)
    failure: str = ""
    """Reason why it was dropped while it was timed."""
    peak_bytes: int = 0
    """Peak memory beyond what was allocated before, results and gradients included, in bytes."""
    output_bytes: int = 0
    repeats: bool = False
    """True when two calls gave the same bits."""


def prove(contender: Contender) -> None:
    """Warm up a contender and measure its memory and whether it repeats its bits. Errors of the provider are not
    caught."""
    first = run(contender)  # compiles
    del first
    if contender.provider.overwrites:
        contender.inputs = contender.renew()
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    results = run(contender)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        contender.peak_bytes = torch.cuda.max_memory_allocated() - before
    contender.output_bytes = sum(value.nbytes for value in results)
    if contender.provider.overwrites:
        contender.inputs = contender.renew()
    again = run(contender)
    contender.repeats = all(torch.equal(a, b) for a, b in zip(results, again, strict=True))


def measure(contenders: Sequence[Contender], modes: Sequence[Mode], rounds: int, seconds: float) -> None:
    """Time `rounds` calls of each contender, or as many as fit in `seconds`.

    Every round begins with the next contender, so that each is first, second, ... equally often. One that fails is
    dropped.
    """
    left = list(contenders)
    for mode in modes:
        begun = perf_counter()
        for number in range(rounds):
            place = number % max(len(left), 1)
            for contender in (*left[place:], *left[:place]):
                milliseconds, contender.failure = attempt(contender.provider.name, partial(timed, contender, mode))
                if milliseconds is None:
                    contender.milliseconds.clear()
                    left.remove(contender)
                else:
                    contender.milliseconds.setdefault(mode, []).append(milliseconds)
            if number + 1 >= LEAST_ROUNDS and perf_counter() - begun > seconds / len(modes):
                break


def attempt(name: str, action: Callable[[], Result]) -> tuple[Result | None, str]:
    """Return the action's result, or None and the reason why there is none.

    One provider's failure does not end the measurements of the others. If it breaks the GPU or does not return, the
    process ends and says so.
    """
    reason = ""
    faulthandler.dump_traceback_later(PATIENCE, exit=True, file=sys.__stderr__)
    try:
        return action(), ""
    except (AbsentError, ImportError) as error:
        reason = f"absent: {error}"
    except torch.OutOfMemoryError:
        reason = NO_ROOM
    except Exception as error:
        reason = f"failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    if not answers():
        sys.exit(f"{name} {reason}; the GPU answers no more. What was measured is kept. Next time: --without {name!r}")
    free()  # not before: the traceback holds tensors
    return None, reason


def answers() -> bool:
    """Return whether the GPU, if there is one, still works for this process: after a fault in a kernel it does not."""
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def quantiles(milliseconds: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(milliseconds, [0.2, 0.5, 0.8])
    return float(low), float(middle), float(high)


def run(contender: Contender) -> list[Tensor]:
    """Return results and gradients of one whole pass."""
    outputs = contender.work(contender.inputs)
    return [*(output.detach() for output in outputs), *differentiate(outputs, contender.inputs)]


def timed(contender: Contender, mode: Mode) -> float:
    """Return the milliseconds of one call; with `backward` the forward pass before it is not counted."""
    if mode == "forward":
        with torch.no_grad():
            return clock(lambda: contender.work(contender.inputs))
    if mode == "both":
        return clock(lambda: run(contender))
    outputs = contender.work(contender.inputs)
    return clock(lambda: list(differentiate(outputs, contender.inputs)))


def differentiate(outputs: Outputs, inputs: Inputs) -> Iterator[Tensor]:
    """Yield the gradients of the sum of all outputs, with weights that rise with the token."""
    leaves = [leaf for leaf in (inputs.logits, inputs.hidden, inputs.weight) if leaf is not None and leaf.requires_grad]
    slopes = [torch.linspace(-1, 1, len(o), device=o.device, dtype=o.dtype) if o.ndim else None for o in outputs]
    grads = torch.autograd.grad(outputs, leaves, slopes, allow_unused=True)
    return (grad for grad in grads if grad is not None)


def clock(work: Callable[[], object]) -> float:
    if not torch.cuda.is_available():
        begun = perf_counter()
        work()
        return (perf_counter() - begun) * 1e3
    memory = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    for _ in range(FLUSHES):
        memory.zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
