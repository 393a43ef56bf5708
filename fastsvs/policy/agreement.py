"""Actions on storage that fail on all ranks as soon as they fail on one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fastsvs import distributed
from fastsvs.errors import UserError

T = TypeVar("T")


def on_main(action: Callable[[], object], failure: str) -> None:
    """Run `action` on the main rank. Raises as `on_all` does."""
    on_all(lambda: action() if distributed.is_main() else None, failure)


def on_all(action: Callable[[], T], failure: str) -> list[T]:
    """Run `action` on every rank, and return the results of all ranks. Collective. Raises UserError on all of them,
    beginning with `failure`, where it failed on one with OSError or UserError."""
    outcome: tuple[T | None, str | None]
    try:
        outcome = action(), None
    except (OSError, UserError) as error:
        outcome = None, str(error)
    outcomes = distributed.gather(outcome)
    faults = [fault for _, fault in outcomes if fault is not None]
    if faults:
        raise UserError(f"{failure}: {faults[0]}")
    return [result for result, _ in outcomes]  # type: ignore[misc]
