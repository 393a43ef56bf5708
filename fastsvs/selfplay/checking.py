"""Decoding of finished groups, and checking of their answers while the engine generates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastsvs import distributed
from fastsvs.config import TrainJob
from fastsvs.registry import Registry
from fastsvs.rollout import Rollout
from fastsvs.selfplay.types import ANSWER, Group, Task
from fastsvs.verify import AnswerVerifier, Finding, Verdict

Finished = tuple[Task, list[Rollout]]
Decode = Callable[[Sequence[int]], str]


Said = Verdict | Finding


class Judge(Protocol):
    """A judge of which responses are correct, where comparing answers cannot tell."""

    def submit(self, asked: Sequence[tuple[str, Task]]) -> Sequence[Said | Future[Any]]:
        """Return the finding on each (response, task), or a future; which of the two depends on the pair alone."""


class OpenedJudge(Judge, Protocol):
    """A judge with all that it holds open."""

    @property
    def facts(self) -> Sequence[str]:
        """Return the lines about the judge for the run's log."""


JudgeFactory = Callable[[TrainJob], AbstractContextManager[OpenedJudge]]
"""Factory that opens a judge for a run whose stage needs it. It raises UserError where the judge must not or cannot
judge."""
JUDGES = Registry[JudgeFactory]("judge", takes=("job",), makes=("__enter__", "__exit__"))
"""Judges besides the answer verifier, by the name that a stage's tasks give."""


class Checker:
    """Decodes and verifies groups while the caller goes on with other work.

    With a collective engine every rank decodes and checks a share of the responses, and all ranks see all groups. What
    comes out when does not depend on the clock: checks that take time are settled one turn later. (Such an engine gives
    the same bits only in the same batch, so the moment at which a request joins it must be reproducible.) With any
    other engine this rank does everything, and a group comes out when its last verdict is there.
    """

    def __init__(
        self, verifier: AnswerVerifier, decode: Decode, collective: bool, judges: Mapping[str, Judge] | None = None
    ) -> None:
        self._judges: Mapping[str, Judge] = {ANSWER: _AnswerJudge(verifier)} | dict(judges or {})
        self._decode = decode
        self._collective = collective
        self._rank, self._ranks = (distributed.rank(), distributed.world_size()) if collective else (0, 1)
        self._exchange = distributed.gather if collective else lambda mine: [mine]
        self._open: list[_Open] = []

    def pending(self) -> int:
        """Return the number of groups whose verdicts are not all there."""
        return len(self._open)

    def turn(self, finished: Sequence[Finished], patience: float) -> list[Group]:
        """Take in `finished` groups and return all groups whose verdicts are there.

        When there would be none, wait for up to `patience` seconds first.
        """
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
        """Decode and submit this rank's share of the responses, then exchange texts and known verdicts with all
        ranks."""
        opened = [_Open(task, rollouts) for task, rollouts in finished]
        places = [(group, sample) for group in opened for sample in range(len(group.rollouts))]
        if not places:
            return
        self._open += opened
        mine = [(group, sample, self._text(group, sample)) for group, sample in places[self._rank :: self._ranks]]
        self._ask(mine)
        shares = self._exchange([(text, group.findings.get(sample)) for group, sample, text in mine])
        for rank, share in enumerate(shares):
            for (group, sample), (text, finding) in zip(places[rank :: self._ranks], share, strict=True):
                group.texts[sample] = text
                if finding is not None:
                    group.findings[sample] = finding

    def _ask(self, responses: Sequence[tuple[_Open, int, str]]) -> None:
        """Ask every judge once, about all of its responses."""
        for name in sorted({group.task.judge for group, *_ in responses if group.task.judge is not None}):
            asked = [(group, sample, text) for group, sample, text in responses if group.task.judge == name]
            found = self._judges[name].submit([(text, group.task) for group, _, text in asked])
            for (group, sample, _), finding in zip(asked, found, strict=True):
                group.take(sample, finding)

    def _text(self, group: _Open, sample: int) -> str:
        return group.task.prefix + self._decode(group.rollouts[sample].response_ids)

    def _wait(self, patience: float) -> None:
        if not any(group.answered() for group in self._open):
            wait([future for group in self._open for future in group.owed.values()], patience, FIRST_COMPLETED)

    def _settle(self, groups: Sequence[_Open]) -> None:
        """Wait for the verdicts that these groups still need, on whichever rank they are being found."""
        if not groups:
            return
        mine = [{sample: _finding(said.result()) for sample, said in group.owed.items()} for group in groups]
        for share in self._exchange(mine):
            for group, findings in zip(groups, share, strict=True):
                group.findings |= findings


@dataclass(slots=True)
class _Open:
    """A group whose verdicts are not all there."""

    task: Task
    rollouts: list[Rollout]
    texts: dict[int, str] = field(default_factory=dict)
    findings: dict[int, Finding] = field(default_factory=dict)
    """Known findings, by sample."""
    owed: dict[int, Future[Any]] = field(default_factory=dict)
    """Futures of the findings that this rank's judge is still working on, by sample."""

    def take(self, sample: int, said: Said | Future[Any]) -> None:
        if isinstance(said, Future):
            self.owed[sample] = said
        else:
            self.findings[sample] = _finding(said)

    def answered(self) -> bool:
        return all(said.done() for said in self.owed.values())

    def complete(self) -> bool:
        return self.task.judge is None or len(self.findings) == len(self.rollouts)

    def conclude(self) -> Group:
        samples = range(len(self.rollouts))
        findings = [self.findings[i] for i in samples] if self.findings else []
        noted = any(finding.note is not None for finding in findings)
        return Group(
            self.task,
            tuple(self.rollouts),
            tuple(self.texts[i] for i in samples),
            tuple(finding.verdict for finding in findings),
            tuple(finding.note for finding in findings) if noted else (),
            scores=tuple(map(_score, findings)) if any(finding.score is not None for finding in findings) else (),
        )


class _AnswerJudge:
    """The judge of tasks whose problem has an answer to compare with."""

    def __init__(self, verifier: AnswerVerifier) -> None:
        self._verifier = verifier

    def submit(self, asked: Sequence[tuple[str, Task]]) -> list[Said | Future[Any]]:
        return list(self._verifier.submit([(text, task.problem) for text, task in asked]))


def _finding(said: Said) -> Finding:
    return said if isinstance(said, Finding) else Finding(said)


def _score(finding: Finding) -> float:
    return float(finding.verdict is Verdict.CORRECT) if finding.score is None else finding.score
