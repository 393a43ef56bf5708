"""The outcome of checking one answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """The outcome of checking one answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNVERIFIED = "unverified"
    """Failure of the check itself (timeout, crash): counted and shown, earns no reward, and is never called wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding of a judge or a verifier about one response."""

    verdict: Verdict
    note: Any = None
    """JSON for the stage and the sample log."""
    score: float | None = None
    """Partial score in [0, 1]; None where the verdict is all."""
