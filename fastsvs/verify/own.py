"""A verifier of the user's own (`verifier.name: module:object`), in the same killable processes as the built-in one.

It is a function of a response and its problem that returns True or False, a score in [0, 1], or a `Verdict`. The
processes import its module; they are as light as that module is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from fastsvs.config import VerifierConfig
from fastsvs.errors import UserError
from fastsvs.registry import Registry
from fastsvs.verify.limits import attempts, workers_of
from fastsvs.verify.verdict import Finding, Verdict
from fastsvs.workers import WorkerPool

MATH = "math"
"""Name of the built-in verifier."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem as a verifier sees it."""

    id: str
    question: str
    answer: str
    row: dict[str, Any] = field(default_factory=dict)
    """All columns of the data row, as JSON holds them. A self-made variant has those of the problem that it came
    from."""


OwnVerifierFn = Callable[[str, Problem], "bool | float | Verdict"]
VERIFIERS = Registry[OwnVerifierFn]("verifier", takes=("response", "problem"), beside=(MATH,))


class Asked(Protocol):
    """The part of a data problem that a verifier may see."""

    @property
    def id(self) -> str: ...

    @property
    def question(self) -> str: ...

    @property
    def answer(self) -> str: ...

    @property
    def row(self) -> Any: ...


class OwnVerifier:
    """Asks the user's function about every response. Threads may share it."""

    def __init__(self, config: VerifierConfig) -> None:
        self._name = config.name
        self._seconds = config.timeout_seconds
        self._workers = workers_of(config)
        self._pool: WorkerPool[dict[str, Any]] = WorkerPool(
            "fastsvs.verify.own_worker", [config.name], self._workers, read=dict, lost={"verdict": Verdict.UNVERIFIED}
        )

    @property
    def facts(self) -> list[str]:
        """Return the lines to show to whoever starts a run."""
        return [f"responses are judged by {self._name} in up to {self._workers} processes a rank"]

    def submit(self, pairs: Sequence[tuple[str, Asked]]) -> list[Future[Finding]]:
        """Return a future of the finding on each (response, problem). It gives UNVERIFIED where the function raised or
        took too long, with a note that says so, and raises UserError where it returned something that is no judgement
        or the processes cannot be started."""
        return [self._submit(response, problem) for response, problem in pairs]

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def _submit(self, response: str, asked: Asked) -> Future[Finding]:
        problem = asdict(Problem(asked.id, asked.question, asked.answer, dict(asked.row)))
        judged = self._pool.submit(*attempts([response, problem], self._seconds))
        found: Future[Finding] = Future()
        judged.add_done_callback(lambda done: _pass_on(done, found, self._name, asked.id))
        return found


def judgement(value: Any) -> dict[str, Any]:
    """Return what a worker sends for the value that a function returned: `verdict` and `score`, or `wrong` for a value
    that is no judgement."""
    if isinstance(value, Verdict):
        return {"verdict": value}
    if isinstance(value, bool):
        return {"verdict": Verdict.CORRECT if value else Verdict.WRONG}
    try:
        score = float(value)
    except (TypeError, ValueError):
        return {"wrong": f"{value!r:.100} of type {type(value).__name__}"}
    if not 0 <= score <= 1:
        return {"wrong": f"{score}"}
    return {"verdict": Verdict.CORRECT if score == 1 else Verdict.WRONG, "score": score}


def _pass_on(done: Future[dict[str, Any]], found: Future[Finding], name: str, problem: str) -> None:
    if done.cancelled():
        found.cancel()
    elif (error := done.exception()) is not None:
        found.set_exception(error)
    elif "wrong" in (said := done.result()):
        found.set_exception(
            UserError(
                f"verifier {name!r} returned {said['wrong']} for a response to problem {problem!r}: return True or "
                "False, a score from 0 to 1, or a fastsvs.verify.Verdict"
            )
        )
    else:
        found.set_result(Finding(Verdict(said["verdict"]), said.get("note"), said.get("score")))
