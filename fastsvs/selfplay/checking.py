"""Finished groups are decoded at once; their answers are checked while the engine generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from fastsvs import distributed
from fastsvs.rollout.engine import Rollout
from fastsvs.selfplay.types import SYNTHESIS, Group, Task
from fastsvs.verify import Pending, Verdict

Finished = tuple[Task, list[Rollout]]
Decode = Callable[[Sequence[int]], str]


class AnswerVerifier(Protocol):
    """What self-play needs of `fastsvs.verify.Verifier`."""

    def submit(self, pairs: Sequence[tuple[str, str]]) -> list[Pending]:
        """For each (response, answer) the verdict, or a future; which of the two depends on the pair alone."""


class Checker:
    """Decodes and verifies groups; whoever needs verdicts gets on with something else until they are there.

    With a collective engine every rank decodes and checks a share of the responses, all ranks see all groups, and what
    comes out when does not depend on the clock: checks that take time are settled one turn later. (Such an engine gives
    the same bits in the same company only, so the moment at which a request joins it must be reproducible.) With any
    other engine this rank does all, and a group comes out when its last verdict is there.
    """

    def __init__(self, verifier: AnswerVerifier, decode: Decode, collective: bool) -> None:
        self._verifier = verifier
        self._decode = decode
        self._collective = collective
        self._rank, self._ranks = (distributed.rank(), distributed.world_size()) if collective else (0, 1)
        self._exchange = distributed.gather if collective else lambda mine: [mine]
        self._open: list[_Open] = []

    def pending(self) -> int:
        """Groups whose verdicts are not all there."""
        return len(self._open)

    def turn(self, finished: Sequence[Finished], patience: float) -> list[Group]:
        """Take in `finished` groups and give all whose verdicts are there, after up to `patience` seconds of waiting
        when there would be none."""
        if self._collective:
            self._settle(self._open)
            self._begin(finished)
        else:
            self._begin(finished)
            self._wait(patience)
            self._settle([group for group in self._open if group.answered()])
        complete = [group.conclude() for group in self._open if group.complete()]
        self._open = [group for group in self._open if not group.complete()]
        return complete

    def _begin(self, finished: Sequence[Finished]) -> None:
        """Decode and submit this rank's share of the responses; the texts and the verdicts known at once, of all."""
        opened = [_Open(task, rollouts) for task, rollouts in finished]
        places = [(group, sample) for group in opened for sample in range(len(group.rollouts))]
        if not places:
            return
        self._open += opened
        mine = [(group, sample, self._text(group, sample)) for group, sample in places[self._rank :: self._ranks]]
        asked = [(group, sample, text, group.answer) for group, sample, text in mine if group.answer is not None]
        verdicts = self._verifier.submit([(text, answer) for _, _, text, answer in asked])
        for (group, sample, *_), verdict in zip(asked, verdicts, strict=True):
            group.take(sample, verdict)
        shares = self._exchange([(text, group.verdicts.get(sample)) for group, sample, text in mine])
        for rank, share in enumerate(shares):
            for (group, sample), (text, verdict) in zip(places[rank :: self._ranks], share, strict=True):
                group.texts[sample] = text
                if verdict is not None:
                    group.verdicts[sample] = verdict

    def _text(self, group: _Open, sample: int) -> str:
        return self._decode(group.rollouts[sample].response_ids)

    def _wait(self, patience: float) -> None:
        if not any(group.answered() for group in self._open):
            wait([future for group in self._open for future in group.owed.values()], patience, FIRST_COMPLETED)

    def _settle(self, groups: Sequence[_Open]) -> None:
        """Wait for the verdicts that these groups still need, on whichever rank they are being found."""
        if not groups:
            return
        mine = [{sample: verdict.result() for sample, verdict in group.owed.items()} for group in groups]
        for share in self._exchange(mine):
            for group, verdicts in zip(groups, share, strict=True):
                group.verdicts |= verdicts


@dataclass(slots=True)
class _Open:
    """A group on its way to its verdicts."""

    task: Task
    rollouts: list[Rollout]
    texts: dict[int, str] = field(default_factory=dict)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    """By sample, those that are there."""
    owed: dict[int, Future[Verdict]] = field(default_factory=dict)
    """Those that are being found by this rank's verifier."""

    @property
    def answer(self) -> str | None:
        """What the responses are checked against; writing a problem has no right answer."""
        return None if self.task.kind == SYNTHESIS else self.task.problem.answer

    def take(self, sample: int, verdict: Pending) -> None:
        if isinstance(verdict, Verdict):
            self.verdicts[sample] = verdict
        else:
            self.owed[sample] = verdict

    def answered(self) -> bool:
        return all(verdict.done() for verdict in self.owed.values())

    def complete(self) -> bool:
        return self.answer is None or len(self.verdicts) == len(self.rollouts)

    def conclude(self) -> Group:
        samples = range(len(self.rollouts))
        verdicts = tuple(self.verdicts[i] for i in samples) if self.verdicts else ()
        return Group(self.task, tuple(self.rollouts), tuple(self.texts[i] for i in samples), verdicts)
