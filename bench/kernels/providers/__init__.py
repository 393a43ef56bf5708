"""Providers that do the work of a case: ours first, then the peers that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

from bench.kernels.providers import cut_cross_entropy, fastsvs, liger, pytorch, quack, trl, verl
from bench.kernels.providers.base import AbsentError, Provider
from bench.kernels.suites import LARGE, Case, Operator

MODULES = (fastsvs, pytorch, liger, verl, cut_cross_entropy, trl, quack)


def providers(case: Case, gpu: bool) -> Iterator[Provider]:
    """Yield the providers of the case's operator; peers only where the case wants them."""
    for module in MODULES:
        if module is fastsvs or case.peers:
            yield from module.providers(case.operator, gpu)


def complete_providers(operator: Operator) -> list[str]:
    """Return the names of the providers that do all of an operator's work on a GPU."""
    case = Case(operator, LARGE, 1, ("both",))
    return [provider.name for provider in providers(case, gpu=True) if provider.complete]


__all__ = ["AbsentError", "Provider", "complete_providers", "providers"]
