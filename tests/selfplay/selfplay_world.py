"""A small world in which self-play runs for real: characters are tokens, and policies are functions of the prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from random import Random
from threading import Timer

from torch import Tensor

from fastsvs.data.records import Problem
from fastsvs.rollout.engine import Request, Rollout, SamplingParams
from fastsvs.selfplay import ORIGINAL, Group, Task
from fastsvs.verify import Pending, Verdict

SYNTHESIS_TEMPLATE = "REWRITE\n{response}\nAS\n```text\n[your problem]\n```"
SAMPLING = SamplingParams(max_tokens=200)

Policy = Callable[[str, Random], str]
"""(prompt, the sample's own randomness) -> response."""


def encode(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


class PolicyEngine:
    """An engine over a text policy; each poll finishes one group. `order` decides which of the unfinished ones."""

    def __init__(
        self, policy: Policy, order: Callable[[int], int] = lambda waiting: 0, collective: bool = True
    ) -> None:
        self.policy = policy
        self.order = order
        self.collective = collective
        self.waiting: list[Request] = []
        self.requests: list[Request] = []
        self.weight_loads = 0

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting += requests
        self.requests += requests

    def abort(self, keys: Collection[str]) -> None:
        self.waiting = [request for request in self.waiting if request.key not in keys]

    def pending(self) -> int:
        return len(self.waiting)

    def poll(self, timeout: float) -> list[tuple[str, list[Rollout]]]:
        if not self.waiting:
            return []
        return [self._finish(self.waiting[self.order(len(self.waiting)) % len(self.waiting)])]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.weight_loads += 1

    def close(self) -> None:
        pass

    def _finish(self, request: Request) -> tuple[str, list[Rollout]]:
        self.waiting.remove(request)
        return request.key, [self._sample(request, number) for number in request.numbers]

    def _sample(self, request: Request, index: int) -> Rollout:
        ids = encode(self.policy(decode(request.prompt_ids), Random(f"{request.seed}/{index}")))
        limit = request.sampling.max_tokens
        finish = "stop" if len(ids) <= limit else "length"
        return Rollout(ids[:limit], (-0.5,) * len(ids[:limit]), finish, weight_version=1)


class BoxVerifier:
    """Right when the last box holds the answer; `\\boxed{?}` cannot be verified. Remembers what it was asked.

    `slow` says for which responses the verdict takes `seconds`.
    """

    def __init__(self, slow: Callable[[str], bool] = lambda response: False, seconds: float = 0.001) -> None:
        self.calls: list[list[tuple[str, str]]] = []
        self.slow = slow
        self.seconds = seconds

    facts: Sequence[str] = ()

    def submit(self, asked: Sequence[tuple[str, Problem]]) -> list[Pending]:
        pairs = [(response, problem.answer) for response, problem in asked]
        self.calls.append(pairs)
        return [self._later(*pair) if self.slow(pair[0]) else self._verdict(*pair) for pair in pairs]

    def _later(self, response: str, answer: str) -> Future[Verdict]:
        verdict: Future[Verdict] = Future()
        Timer(self.seconds, verdict.set_result, [self._verdict(response, answer)]).start()
        return verdict

    def _verdict(self, response: str, answer: str) -> Verdict:
        box = (re.findall(r"\\boxed\{(.*?)\}", response) or [""])[-1]
        if box == "?":
            return Verdict.UNVERIFIED
        return Verdict.CORRECT if box == answer else Verdict.WRONG


def problem(number: int = 0) -> Problem:
    return Problem(id=f"p{number}", question=f"What is {number} + {number}?", answer=str(2 * number), source="sums")


def solved(correct: int, of: int = 8, unverified: int = 0, task: Task | None = None) -> Group:
    """A group with the given numbers of correct and unverified responses; the rest is wrong."""
    verdicts = [Verdict.CORRECT] * correct + [Verdict.UNVERIFIED] * unverified
    verdicts += [Verdict.WRONG] * (of - len(verdicts))
    return answered(
        task or Task("p0", ORIGINAL, problem(), encode("SOLVE"), of), [f"work {i}" for i in range(of)], verdicts
    )


def answered(task: Task, texts: Sequence[str], verdicts: Sequence[Verdict] = ()) -> Group:
    rollouts = tuple(Rollout(encode(text), (0.0,) * len(text), "stop", 1) for text in texts)
    return Group(task, rollouts, tuple(texts), tuple(verdicts))
