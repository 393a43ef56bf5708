"""Turns (response, answer) pairs into verdicts, at once or beside other work."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock
from types import TracebackType

from fastsvs.config import VerifierConfig
from fastsvs.verify.answers import boxed_content, final_answer, plain_integer
from fastsvs.verify.limits import attempts, workers_of
from fastsvs.verify.own import Asked
from fastsvs.verify.verdict import Verdict
from fastsvs.workers import WorkerPool

Pending = Verdict | Future[Verdict]
"""A verdict, or a future that will hold it."""


class Verifier:
    """Checks answers: it compares plain integers itself, and sends all others to math-verify in processes that can be
    killed.

    The processes start with the first answer that needs them and stay until `close`. Threads may share it.
    """

    def __init__(self, config: VerifierConfig) -> None:
        self._workers = workers_of(config)
        self._seconds = config.timeout_seconds
        self._pool = WorkerPool("fastsvs.verify.worker", [], self._workers, read=Verdict, lost=Verdict.UNVERIFIED)
        self._asked: dict[tuple[str, str], Future[Verdict]] = {}
        self._lock = Lock()

    @property
    def facts(self) -> list[str]:
        """Return the lines to show to whoever starts a run."""
        return [f"answers that are no plain integers are checked in up to {self._workers} processes a rank"]

    def submit(self, pairs: Sequence[tuple[str, Asked]]) -> list[Pending]:
        """Return the verdict for each (response, problem), or a future while a process checks it.

        Which of the two depends on the pair alone. Equal pairs of (final answer, gold answer) that are under way
        together are checked once. A future gives UNVERIFIED when the check took more CPU time than the limit, its
        process died, or the gold answer cannot be read; it raises UserError when the processes cannot be started.
        """
        return self.submit_answers([(response, problem.answer) for response, problem in pairs])

    def submit_answers(self, pairs: Sequence[tuple[str, str]]) -> list[Pending]:
        """Return the verdict for each (response, gold answer) as `submit` does."""
        asked = [(final_answer(response), gold) for response, gold in pairs]
        with self._lock:
            self._asked = {question: verdict for question, verdict in self._asked.items() if not verdict.done()}
            return [self._submit(answer, gold) for answer, gold in asked]

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return the verdict for each (response, gold answer), waiting for all of them."""
        return [settled(verdict) for verdict in self.submit_answers(pairs)]

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, answer: str, gold: str) -> Pending:
        verdict = compare(answer, gold)
        if verdict is not None:
            return verdict
        if (answer, gold) not in self._asked:
            self._asked[answer, gold] = self._pool.submit(*attempts([answer, gold], self._seconds))
        return self._asked[answer, gold]


def settled(verdict: Pending) -> Verdict:
    """Return the verdict, waiting for it where necessary."""
    return verdict if isinstance(verdict, Verdict) else verdict.result()


def compare(answer: str, gold: str) -> Verdict | None:
    """Return the verdict when no mathematics is needed (two plain integers, or nothing written at all), else None."""
    if not answer:
        return Verdict.WRONG if gold.strip() else Verdict.UNVERIFIED
    expected = plain_integer(gold)
    found = plain_integer(boxed_content(answer) or "")
    if expected is None or found is None:
        return None
    return Verdict.CORRECT if found == expected else Verdict.WRONG
