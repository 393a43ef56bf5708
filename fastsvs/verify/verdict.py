"""What became of checking one answer."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    CORRECT = "correct"
    WRONG = "wrong"
    UNVERIFIED = "unverified"
    """The check itself failed (timeout, crash): counted and shown, earns no reward, and is never called wrong."""
