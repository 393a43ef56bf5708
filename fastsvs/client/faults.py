"""What a request for samples can end with besides samples."""

from __future__ import annotations

from fastsvs.errors import EngineFailure


class UnreachableError(Exception):
    """The server could not be reached, or the connection broke."""


class NonsenseError(Exception):
    """The answer is not what was asked for."""


class AbortedError(Exception):
    """The server gave the request up, e.g. to get new weights."""


class ClientLostError(Exception):
    """The client process died over the request, which no server is to be blamed for."""


def demand(holds: bool, fault: str) -> None:
    """Raise NonsenseError, which names the `fault`, unless the condition holds."""
    if not holds:
        raise NonsenseError(f"answered nonsense: {fault}")


TOLD: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (UnreachableError, NonsenseError, AbortedError, EngineFailure, FloatingPointError, RuntimeError)
}
"""Errors that a client process tells the trainer, by name. Any other is a fault of ours and becomes a RuntimeError."""
