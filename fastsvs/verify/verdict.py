"""The outcome of checking one answer."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """The outcome of checking one answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNVERIFIED = "unverified"
    """Failure of the check itself (timeout, crash): counted and shown, earns no reward, and is never called wrong."""
