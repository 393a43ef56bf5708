"""The judge that runs programs to find out what a proposal gives and whether an answer is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

from fastsvs.config import AzrConfig, TrainJob
from fastsvs.sandbox import Outcome, Program, Sandbox, Status, Value, same
from fastsvs.selfplay.azr.exercises import Exercise, literal, literal_text
from fastsvs.selfplay.azr.proposals import ENTRY, Proposal, Rejection, check_program, read_proposal
from fastsvs.selfplay.azr.responses import Blocks, last_block, read_blocks
from fastsvs.selfplay.azr.templates import Templates, load_templates, task_of
from fastsvs.selfplay.checking import JUDGES, Finding, Said
from fastsvs.selfplay.types import Task
from fastsvs.verify import Verdict

JUDGE = "azr"
NO_ANSWER = "no_answer"
"""Note on an answer that lacks the block that was asked for."""
ANSWER_BLOCKS = {"deduction": "output", "abduction": "input", "induction": "python"}

Runs = dict[Program, Future[Outcome]]


class AzrJudge:
    """The judge of proposals and answers.

    A proposal is correct when it is valid. Its note is then the exercise as JSON, and `{"rejected": reason}` otherwise.
    """

    def __init__(self, config: AzrConfig, templates: Templates, sandbox: Sandbox) -> None:
        self._config = config
        self._templates = templates
        self._sandbox = sandbox
        self.facts = [sandbox.open().describe()]

    def submit(self, asked: Sequence[tuple[str, Task]]) -> list[Said | Future[Any]]:
        """Return what is found of each (response, task), or its future. Answers that mean the same run are run once."""
        runs: Runs = {}
        return [self._submit(response, task, runs) for response, task in asked]

    def _submit(self, response: str, task: Task, runs: Runs) -> Said | Future[Any]:
        blocks = read_blocks(response, self._templates.tagged(task.kind))
        role, name = task_of(task.kind)
        if role == "propose":
            return self._propose(blocks, task.problem.extra.get("program"))
        answer = last_block(blocks, ANSWER_BLOCKS[name])
        if answer is None:
            return Finding(Verdict.WRONG, NO_ANSWER)
        return self._solve(answer, name, Exercise.from_json(task.problem.extra["exercise"]), runs)

    def _propose(self, blocks: Blocks, given: str | None) -> Said | Future[Any]:
        proposal = read_proposal(blocks, given, self._config)
        if isinstance(proposal, Rejection):
            return rejected(proposal)
        runs = self._sandbox.submit_twice(Program(proposal.program, ENTRY, proposal.inputs))
        return joined(*runs, make=lambda *both: proposed(proposal, both, self._config.max_value_characters))

    def _solve(self, answer: str, name: str, exercise: Exercise, runs: Runs) -> Said | Future[Any]:
        """Check an answer: in the sandbox, deduction reads it as a value, and abduction and induction run a program."""
        gold = [literal(output) for output in exercise.outputs]
        if name == "deduction":
            run = Program("", None, (f"({answer}\n)",))
        elif name == "abduction":
            run = Program(exercise.program, ENTRY, (answer,))
        elif check_program(answer, self._config):
            return Finding(Verdict.WRONG)
        else:
            run, gold = Program(answer, ENTRY, exercise.inputs[exercise.seen :]), gold[exercise.seen :]
        if run not in runs:
            runs[run] = self._sandbox.submit(run)
        return joined(runs[run], make=lambda outcome: judged(outcome, gold))


def proposed(proposal: Proposal, outcomes: Sequence[Outcome], longest: int) -> Finding:
    """Judge a proposal by the outcomes of its program under two hash orders."""
    first, second = outcomes
    if Status.LOST in (first.status, second.status):
        return Finding(Verdict.UNVERIFIED, {"rejected": str(Rejection.LOST)})
    if not same(first, second):
        return rejected(Rejection.NOT_DETERMINISTIC)
    if first.status is not Status.OK:
        return rejected(Rejection.OUTPUT if first.status is Status.OUTPUT else Rejection.FAILED)
    texts = [literal_text(value, longest) for value in first.values]
    outputs = tuple(text for text in texts if text is not None)
    if len(outputs) < len(texts):
        return rejected(Rejection.OUTPUT)
    return Finding(Verdict.CORRECT, Exercise(proposal.program, proposal.inputs, outputs, proposal.message).as_json())


def judged(outcome: Outcome, gold: Sequence[Value]) -> Finding:
    """Compare an outcome with the `gold` values by Python's `==`, for which 1, 1.0 and True are equal."""
    if outcome.status is Status.LOST:
        return Finding(Verdict.UNVERIFIED)
    right = outcome.status is Status.OK and list(outcome.values) == list(gold)
    return Finding(Verdict.CORRECT if right else Verdict.WRONG)


def rejected(reason: Rejection) -> Finding:
    return Finding(Verdict.WRONG, {"rejected": str(reason)})


def joined(*futures: Future[Outcome], make: Callable[..., Finding]) -> Future[Finding]:
    """Return a future of what `make` returns for all results, set as soon as the last result is there."""
    made: Future[Finding] = Future()

    def go_on(rest: Sequence[Future[Outcome]]) -> None:
        if rest:
            rest[0].add_done_callback(lambda _: go_on(rest[1:]))
            return
        try:
            made.set_result(make(*(future.result() for future in futures)))
        except CancelledError:
            made.cancel()
        except Exception as error:  # whoever waits must hear of it
            made.set_exception(error)

    go_on(futures)
    return made


@JUDGES.register(JUDGE)
@contextmanager
def open_judge(job: TrainJob) -> Iterator[AzrJudge]:
    config = job.selfplay.azr
    with Sandbox(job.sandbox) as sandbox:
        yield AzrJudge(config, load_templates(config.templates), sandbox)
