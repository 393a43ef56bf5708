"""Drives any stage over any engine: submit, decode, verify, expand, until nothing is left; then finish.

There is no barrier between solving, writing and solving again: each group is expanded as soon as the engine gives it.
What comes out depends neither on that order nor on the number of ranks: a request's seed comes from its key, and the
groups are sorted by key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Protocol, runtime_checkable

from fastsvs.distributed import map_sharded
from fastsvs.rollout.engine import Engine, Request, Rollout, SamplingParams
from fastsvs.seeding import derive_seed
from fastsvs.selfplay.types import SYNTHESIS, Experience, ExperienceStage, Group, Task
from fastsvs.verify.verdict import Verdict

Finished = tuple[Task, list[Rollout]]


class AnswerVerifier(Protocol):
    """What `collect` needs of `fastsvs.verify.Verifier`."""

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """A verdict for each (response, answer)."""


@runtime_checkable
class BufferingEngine(Protocol):
    """An engine that finishes many groups at once can say so: they are then decoded and verified together."""

    def ready(self) -> int:
        """Groups that `completed()` would give without waiting; the same on all ranks."""


def collect(
    stage: ExperienceStage,
    tasks: Sequence[Task],
    engine: Engine,
    verifier: AnswerVerifier,
    decode: Callable[[Sequence[int]], str],
    sampling: SamplingParams,
    seed: int,
    progress: Callable[[Group], None] | None = None,
) -> Experience:
    """The experience that `tasks` lead to. `progress` sees every group once, as soon as it is verified.

    Collective: every rank calls it with the same arguments and gets the same result; decoding and verification, once
    for each response, are dealt over the ranks. Raises ValueError when two tasks share a key.
    """
    known: dict[str, Task] = {}
    groups: list[Group] = []

    def submit(new: Sequence[Task]) -> None:
        for task in new:
            if known.setdefault(task.key, task) is not task:
                raise ValueError(f"two tasks of one step have the key {task.key!r}")
        if new:
            engine.submit([_request(task, sampling, seed) for task in new])

    submit(tasks)
    while len(groups) < len(known):
        before = len(groups)
        for batch in _batches(engine, known):
            verified = _check(batch, verifier, decode)
            groups += verified
            submit([task for group in verified for task in stage.expand(group)])
            for group in verified if progress else ():
                progress(group)  # type: ignore[misc]
        if len(groups) == before:
            raise RuntimeError(f"the engine gave back only {before} of the {len(known)} groups submitted to it")
    return stage.finish(sorted(groups, key=lambda group: group.task.key))


def _request(task: Task, sampling: SamplingParams, seed: int) -> Request:
    limited = replace(sampling, max_tokens=task.max_tokens or sampling.max_tokens)
    return Request(task.key, task.prompt_ids, task.samples, limited, derive_seed(seed, task.key))


def _batches(engine: Engine, known: dict[str, Task]) -> Iterator[list[Finished]]:
    """Finished groups, as many at a time as the engine has ready."""
    batch: list[Finished] = []
    for key, rollouts in engine.completed():
        batch.append((known[key], rollouts))
        if not (isinstance(engine, BufferingEngine) and engine.ready()):
            yield batch
            batch = []
    if batch:
        yield batch


def _check(batch: Sequence[Finished], verifier: AnswerVerifier, decode: Callable[[Sequence[int]], str]) -> list[Group]:
    """Decoded and verified groups; the responses are dealt over the ranks."""
    samples = [(rollout.response_ids, _answer(task)) for task, rollouts in batch for rollout in rollouts]

    def check(share: list[tuple[tuple[int, ...], str | None]]) -> list[tuple[str, Verdict | None]]:
        texts = [decode(response_ids) for response_ids, _ in share]
        pairs = [(text, answer) for text, (_, answer) in zip(texts, share, strict=True) if answer is not None]
        verdicts = iter(verifier.verify(pairs)) if pairs else iter(())
        return [
            (text, None if answer is None else next(verdicts)) for text, (_, answer) in zip(texts, share, strict=True)
        ]

    checked = map_sharded(check, samples)
    ends = list(accumulate(len(rollouts) for _, rollouts in batch))
    groups = []
    for (task, rollouts), end in zip(batch, ends, strict=True):
        texts, verdicts = zip(*checked[end - len(rollouts) : end], strict=True)
        groups.append(Group(task, tuple(rollouts), texts, () if _answer(task) is None else verdicts))
    return groups


def _answer(task: Task) -> str | None:
    """What the responses are checked against; writing a problem has no right answer."""
    return None if task.kind == SYNTHESIS else task.problem.answer
