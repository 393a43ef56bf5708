"""One case: its providers made ready, measured in turn, shown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cache, partial

import torch

from bench.kernels.budget import Budget
from bench.kernels.ceilings import Ceilings
from bench.kernels.inputs import Inputs, make
from bench.kernels.measure import Contender, attempt, free, measure, prove, quantiles
from bench.kernels.providers import Provider, providers
from bench.kernels.suites import Case
from bench.report import Row


def run_case(
    case: Case, budget: Budget, ceilings: Ceilings, device: torch.device, without: Collection[str]
) -> Iterator[Row]:
    print(f"\n{case.name}")
    begun, suite = budget.elapsed(), budget.suite
    own = partial(make, case, device)
    shared = cache(own)
    contenders = []
    for provider in providers(case, suite.needs_gpu):
        if provider.name in without:
            continue
        contender, reason = attempt(provider.name, partial(_ready, provider, shared, own))
        if contender is None:
            yield missing(case, provider, reason)
        else:
            contenders.append(contender)
    measure(contenders, case.modes, suite.rounds, suite.case_seconds)
    for contender in contenders:
        if contender.failure:
            yield missing(case, contender.provider, contender.failure)
        else:
            yield from show(case, contender, ceilings)
    budget.learn(case, contenders, budget.elapsed() - begun)
    contenders.clear()
    shared.cache_clear()
    free()


def _ready(
    provider: Provider, shared: Callable[[torch.dtype], Inputs], own: Callable[[torch.dtype], Inputs]
) -> Contender:
    """Return a contender that is ready. All work on the same tensors, except those that destroy them."""
    renew = partial(own, provider.logits_dtype)
    inputs = renew() if provider.overwrites else shared(provider.logits_dtype)
    contender = Contender(provider, provider.prepare(), inputs, renew)
    prove(contender)
    return contender


def missing(case: Case, provider: Provider, reason: str) -> Row:
    print(f"  {provider.name:<31}{reason}")
    return Row(case.name, provider.name, "measured", 0.0, "yes/no", note=reason)


def show(case: Case, contender: Contender, ceilings: Ceilings) -> Iterator[Row]:
    """Print a contender's lines and yield its rows; `limit` of a time is its floor."""
    provider, gpu = contender.provider, ceilings.gpu
    name, note = provider.name, provider.unequal or None
    for mode, milliseconds in contender.milliseconds.items():
        low, middle, high = quantiles(milliseconds)
        floor = ceilings.floor(case, mode, provider.logits_dtype.itemsize)
        share = f"{100 * floor / middle:5.1f}% of the floor" if floor else ""
        print(f"  {name:<31}{mode:<9}{middle:>10.3f} ms  [{low:.3f}, {high:.3f}]  {share}")
        yield Row(case.name, name, f"{mode}, median", middle, "ms", floor, note)
        yield Row(case.name, name, f"{mode}, p20", low, "ms")
        yield Row(case.name, name, f"{mode}, p80", high, "ms")
    facts = ["repeats its bits" if contender.repeats else "does not repeat its bits"]
    if gpu:
        peak, results = contender.peak_bytes / 2**30, contender.output_bytes / 2**30
        facts.insert(0, f"{peak:.2f} GiB more at its peak, {results:.2f} GiB of results and gradients")
        yield Row(case.name, name, "peak memory", peak, "GiB")
        yield Row(case.name, name, "results and gradients", results, "GiB")
    yield Row(case.name, name, "same bits twice", float(contender.repeats), "yes/no")
    print(f"  {'':<31}{'; '.join([*facts, note] if note else facts)}")
