"""The loop that drives any stage over any engine: submit, decode, verify, expand, until nothing is left; then finish.

In streaming there is no barrier between solving, writing and solving again: each group goes on as soon as its answers
are checked, and checking runs beside generation. What comes out depends neither on that order nor on the number of
ranks: a request's seed comes from its key, and the groups are sorted by key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from time import perf_counter
from typing import Literal, ParamSpec

from fastsvs.config import BudgetConfig
from fastsvs.rollout import Inference, Request, SamplingParams
from fastsvs.seeding import derive_seed
from fastsvs.selfplay.budget import Portions
from fastsvs.selfplay.checking import AnswerVerifier, Checker, Decode, Judge
from fastsvs.selfplay.types import Experience, ExperienceStage, Group, Task
from fastsvs.selfplay.waves import Waves

P = ParamSpec("P")
Schedule = Literal["streaming", "phased"]
PATIENCE_SECONDS = 1.0
"""Longest wait for the engine or the verifier when the other has nothing to do, in seconds."""
TURN_SECONDS = 0.02
"""Longest wait for a remote engine while answers are being checked, in seconds."""


def play(
    stage: ExperienceStage,
    tasks: Sequence[Task],
    engine: Inference,
    verifier: AnswerVerifier,
    decode: Decode,
    sampling: SamplingParams,
    seed: int,
    *,
    waves: Waves | None = None,
    portions: Portions | None = None,
    judges: Mapping[str, Judge] | None = None,
    schedule: Schedule = "streaming",
    progress: Callable[[Group, int], None] = lambda group, asked: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Experience]:
    """Yield the experience that `tasks` lead to, each of the `waves` as soon as it is complete, in their order. Without
    `waves` it is one.

    `portions` says which tasks are asked in two parts, the second only where it is worth it; without it none is.
    `verifier` compares answers; tasks may name one of `judges` instead. `progress` is called once with every group, as
    soon as it is verified, and with the number of groups that were asked for so far. With `phased`, every group of one
    generation of tasks waits for the last before any goes on; the result is the same.

    With a collective engine every rank calls this with the same arguments and gets the same result; with any other, the
    main rank alone calls it. Raises ValueError when two tasks share a key, RuntimeError when the engine loses a group,
    CancelledError soon after `cancelled()` has become true.
    """
    waves, portions = waves or Waves(tasks), portions or Portions(BudgetConfig())
    checker = Checker(verifier, decode, engine.collective, judges)
    known: dict[str, Task] = {}
    finished_groups = 0
    unexpanded: list[Group] = []
    idle = 0.0

    def ask(tasks: Sequence[Task], part: Callable[[Task], range]) -> None:
        if tasks:
            engine.submit([_request(task, part(task), sampling, seed, waves.priority(task)) for task in tasks])

    def submit(new: Sequence[Task]) -> None:
        for task in new:
            if known.setdefault(task.key, task) is not task:
                raise ValueError(f"two tasks of one step have the key {task.key!r}")
        waves.asked(new)
        ask(new, portions.first)

    submit(tasks)
    while True:
        for groups in waves.take():
            yield replace(stage.finish(groups), idle_seconds=idle)
            idle = 0.0
        if waves.over:
            return
        if cancelled():
            raise CancelledError
        generating = engine.pending() > 0
        if not generating and not checker.pending():
            raise RuntimeError(
                f"the engine gave back only {finished_groups} of the {len(known)} groups submitted to it"
            )
        finished = engine.poll(_patience(engine, checker)) if generating else []
        began, working = perf_counter(), engine.pending() > 0 and not engine.collective
        patience = 0.0 if generating else PATIENCE_SECONDS
        checked = checker.turn([(known[key], rollouts) for key, rollouts in finished], patience)
        verified, unfinished = portions.sort(checked)
        ask(unfinished, portions.rest)
        finished_groups += len(verified)
        unexpanded += verified
        for group in verified:
            progress(group, len(known))
        if schedule == "streaming" or finished_groups == len(known):
            submit([task for group in unexpanded for task in stage.expand(group)])
            for group in unexpanded:
                waves.done(group)
            unexpanded.clear()
        idle += 0 if working else perf_counter() - began


def _whole(play: Callable[P, Iterator[Experience]]) -> Callable[P, Experience]:
    def whole(*arguments: P.args, **options: P.kwargs) -> Experience:
        [experience] = play(*arguments, **options)
        return experience

    return whole


collect = _whole(play)
"""Function that takes what `play` takes, without waves, and returns the one experience that `play` yields."""


def _patience(engine: Inference, checker: Checker) -> float:
    """Return how long to wait for the engine, in seconds: less while verdicts may soon give it more to do."""
    if not checker.pending():
        return PATIENCE_SECONDS
    return 0.0 if engine.collective else TURN_SECONDS


def _request(task: Task, part: range, sampling: SamplingParams, seed: int, priority: int) -> Request:
    limited = replace(sampling, max_tokens=task.max_tokens or sampling.max_tokens)
    seed = derive_seed(seed, task.key)
    return Request(task.key, task.prompt_ids, len(part), limited, seed, priority, first_sample=part.start)
