"""A small world in which self-play runs for real: characters are tokens, and policies are functions of the prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random

from torch import Tensor

from fastsvs.data.records import Problem
from fastsvs.rollout.engine import Request, Rollout, SamplingParams
from fastsvs.selfplay import ORIGINAL, Group, Task
from fastsvs.verify.verdict import Verdict

SYNTHESIS_TEMPLATE = "REWRITE\n{response}\nAS\n```text\n[your problem]\n```"
SAMPLING = SamplingParams(max_tokens=200)

Policy = Callable[[str, Random], str]
"""(prompt, the sample's own randomness) -> response."""


def encode(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


class PolicyEngine:
    """An engine over a text policy. `order` decides which of the unfinished groups is completed next."""

    def __init__(self, policy: Policy, order: Callable[[int], int] = lambda waiting: 0) -> None:
        self.policy = policy
        self.order = order
        self.waiting: list[Request] = []
        self.requests: list[Request] = []
        self.weight_loads = 0

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting += requests
        self.requests += requests

    def completed(self) -> Iterator[tuple[str, list[Rollout]]]:
        while self.waiting:
            request = self.waiting.pop(self.order(len(self.waiting)) % len(self.waiting))
            yield request.key, [self._sample(request, index) for index in range(request.samples)]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.weight_loads += 1

    def close(self) -> None:
        pass

    def _sample(self, request: Request, index: int) -> Rollout:
        ids = encode(self.policy(decode(request.prompt_ids), Random(f"{request.seed}/{index}")))
        limit = request.sampling.max_tokens
        finish = "stop" if len(ids) <= limit else "length"
        return Rollout(ids[:limit], (-0.5,) * len(ids[:limit]), finish, weight_version=1)


class BoxVerifier:
    """Right when the last box holds the answer; `\\boxed{?}` cannot be verified. Remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, str]]] = []

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        self.calls.append(list(pairs))
        return [self._verdict(*pair) for pair in pairs]

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
