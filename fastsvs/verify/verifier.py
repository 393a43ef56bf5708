"""From (response, answer) pairs to verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from fastsvs.config import VerifierConfig
from fastsvs.verify.answers import boxed_content, final_answer, plain_integer
from fastsvs.verify.pool import WorkerPool
from fastsvs.verify.verdict import Verdict


class Verifier:
    """Compares plain integers itself; everything else goes to math-verify in processes that can be killed.

    The processes start with the first answer that needs them and stay until `close`. For one thread at a time.
    """

    def __init__(self, config: VerifierConfig) -> None:
        self._pool = WorkerPool(config.workers, config.timeout_seconds)

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """A verdict for each (response, gold answer). Equal pairs of (final answer, gold answer) are checked once.

        UNVERIFIED: the check took longer than the timeout, its process died, or the gold answer cannot be parsed.
        Raises UserError when the processes cannot be started.
        """
        questions = [(final_answer(response), gold) for response, gold in pairs]
        verdicts = {question: compare(*question) for question in questions}
        hard = [question for question, verdict in verdicts.items() if verdict is None]
        checked = dict(zip(hard, self._pool.run(hard), strict=True))
        return [verdicts[question] or checked[question] for question in questions]

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def compare(answer: str, gold: str) -> Verdict | None:
    """The verdict when no mathematics is needed: two plain integers, or nothing written at all; else None."""
    if not answer:
        return Verdict.WRONG if gold.strip() else Verdict.UNVERIFIED
    expected = plain_integer(gold)
    found = plain_integer(boxed_content(answer) or "")
    if expected is None or found is None:
        return None
    return Verdict.CORRECT if found == expected else Verdict.WRONG
