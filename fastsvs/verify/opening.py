"""The verifier that a configuration names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from typing import Any, Protocol

from fastsvs.config import VerifierConfig
from fastsvs.verify.own import MATH, VERIFIERS, Asked, OwnVerifier
from fastsvs.verify.verdict import Finding, Verdict
from fastsvs.verify.verifier import Verifier


class AnswerVerifier(Protocol):
    """A verifier at work."""

    @property
    def facts(self) -> Sequence[str]:
        """Return the lines to show to whoever starts a run."""

    def submit(self, pairs: Sequence[tuple[str, Asked]]) -> Sequence[Verdict | Finding | Future[Any]]:
        """Return the finding on each (response, problem), or a future; which of the two depends on the pair alone."""


def check_verifier(config: VerifierConfig) -> None:
    """Raise UserError where the configuration names no verifier, or a function that cannot be called as one."""
    if config.name != MATH:
        VERIFIERS.get(config.name)


@contextmanager
def open_verifier(config: VerifierConfig) -> Iterator[AnswerVerifier]:
    """Open the verifier of the configuration, and end its processes at the end."""
    with closing(Verifier(config) if config.name == MATH else OwnVerifier(config)) as verifier:
        yield verifier
