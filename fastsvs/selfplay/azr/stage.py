"""The AZR stage: propose exercises, solve them, learn from both (arXiv 2505.03335, algorithm 1).

In one step the policy writes `prompts_per_task` proposals of each task. A proposal that runs, and always gives the same
result, is solved `samples_per_proposal` times in the same step, with the same sampling as everything else. The mean of
these answers is the proposer's solve rate, and the solver learns from the same answers. The AZR code uses such answers
for the solve rate only, and trains its solver on problems from the buffer that were proposed a step before, with one
answer each; `solve_from_buffer` adds such problems.

The advantage `trr` compares rewards over all samples of a kind, so groups with equal rewards teach too. All groups are
therefore kept, except those of a frozen proposer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import fmean
from typing import Any

from fastsvs.config import SelfPlayConfig
from fastsvs.data import Problem
from fastsvs.seeding import derive_seed
from fastsvs.selfplay.azr.exercises import Buffer, Exercise, read_seeds
from fastsvs.selfplay.azr.judge import JUDGE
from fastsvs.selfplay.azr.measures import intrinsic_reward, nodes
from fastsvs.selfplay.azr.proposals import Rejection
from fastsvs.selfplay.azr.rewards import proposal_reward, solving_rewards
from fastsvs.selfplay.azr.templates import TASKS, load_templates, task_of
from fastsvs.selfplay.stages import STAGES, PlainStage, StageTools, conclude
from fastsvs.selfplay.types import Experience, Group, Task

Solves = Mapping[tuple[str | None, int | None], Group]
"""Answers to each proposal, by its group's key and its place in the group."""


@STAGES.register("azr")
class AzrStage(PlainStage):
    """The stage of AZR, with one buffer for each task as its state.

    What was proposed in a step is in the buffers from the next step on.
    """

    judges: Sequence[str] = (JUDGE,)
    by_family = False  # its buffers take in a whole step
    reads_problems = False

    def __init__(self, config: SelfPlayConfig, tools: StageTools) -> None:
        super().__init__(config, tools)
        self.azr = config.azr
        self.templates = load_templates(self.azr.templates, self.azr.banned)
        seeds = read_seeds(self.azr.seed_file)
        self.buffers = {task: Buffer(self.azr.buffer_size, () if task == "induction" else seeds) for task in TASKS}

    def begin(self, step: int, originals: Sequence[Task]) -> list[Task]:
        """Return the step's proposal tasks and its problems from the buffers. No data set is read: `originals` is
        empty."""
        return [task for name in self.azr.tasks for task in (*self._proposing(name, step), *self._solving(name, step))]

    def expand(self, group: Group) -> list[Task]:
        role, name = task_of(group.task.kind)
        if role == "solve":
            return []
        tasks = []
        for sample, exercise in _proposals(group):
            key = group.task.child_key(sample)
            task = self._solve_task(name, exercise, key, self.azr.samples_per_proposal)
            if self._fits(task):
                tasks.append(replace(task, parent=group.task.key, parent_sample=sample))
        return tasks

    def finish(self, groups: Sequence[Group]) -> Experience:
        solves: Solves = {(group.task.parent, group.task.parent_sample): group for group in groups if group.task.parent}
        rewarded = [replace(group, rewards=self._rewards(group, solves)) for group in groups]
        frozen = self.azr.freeze_proposer
        experience = conclude(rewarded, lambda group: not (frozen and task_of(group.task.kind)[0] == "propose"))
        counters = experience.counters | self._reasons(groups, solves)
        for name in self.azr.tasks:
            counters |= self._take_in(name, groups, solves)
        return replace(experience, counters=counters)

    def state_dict(self) -> Any:
        return {name: buffer.state_dict() for name, buffer in self.buffers.items()}

    def load_state_dict(self, state: Any) -> None:
        for name, buffer in self.buffers.items():
            buffer.load_state_dict(state[name])

    def _proposing(self, name: str, step: int) -> Iterator[Task]:
        """Yield a step's proposal tasks of one task. `finish` counts prompts that are too long, by their absence."""
        kind = f"propose_{name}"
        for index in range(self.azr.prompts_per_task):
            random = Random(derive_seed(self.tools.seed, "azr", step, kind, index))
            task = self._induction_task(random) if name == "induction" else self._program_task(name, random)
            key = f"{kind}-{index:06d}"
            named = replace(task, key=key, kind=kind, problem=replace(task.problem, id=f"{key}@{step}"))
            if self._fits(named):
                yield named

    def _program_task(self, name: str, random: Random) -> Task:
        """Return a proposal task with as many references as fit into the prompt."""
        references = self.buffers[name].draw(self.azr.references, random)
        task = self._proposal_task(self.templates.propose(name, references), references)
        while references and not self._fits(task):
            references.pop()
            task = self._proposal_task(self.templates.propose(name, references), references)
        return task

    def _induction_task(self, random: Random) -> Task:
        known = [*self.buffers["deduction"].exercises, *self.buffers["abduction"].exercises]
        program = random.choice(known).program
        question = self.templates.propose_inputs(program, self.azr.inputs_per_program)
        return self._task(question, samples=1, answer="", program=program)

    def _proposal_task(self, question: str, references: Sequence[Exercise]) -> Task:
        return self._task(question, samples=1, answer="", references=[shown.program for shown in references])

    def _solving(self, name: str, step: int) -> Iterator[Task]:
        """Yield solving tasks for problems from the buffer as it is before the step."""
        kind = f"solve_{name}"
        random = Random(derive_seed(self.tools.seed, "azr", step, kind))
        drawn = self.buffers[name].draw_newest(self.azr.solve_from_buffer, random)
        for index, exercise in enumerate(drawn):
            task = self._solve_task(name, exercise, f"{kind}-{index:06d}", self.azr.samples_from_buffer)
            if self._fits(task):
                yield task

    def _solve_task(self, name: str, exercise: Exercise, key: str, samples: int) -> Task:
        answer = {"deduction": exercise.outputs[0], "abduction": exercise.inputs[0], "induction": exercise.program}
        question = self.templates.solve(name, exercise)
        task = self._task(question, samples, answer[name], exercise=exercise.as_json())
        return replace(task, key=key, kind=f"solve_{name}", problem=replace(task.problem, id=key))

    def _task(self, question: str, samples: int, answer: str, **extra: object) -> Task:
        problem = Problem(id="", question=question, answer=answer, source=JUDGE, extra=extra)
        return Task("", "", problem, self.tools.encode_message(question), samples, judge=JUDGE)

    def _fits(self, task: Task) -> bool:
        return len(task.prompt_ids) <= self.tools.max_prompt_tokens

    def _rewards(self, group: Group, solves: Solves) -> tuple[float, ...]:
        role, name = task_of(group.task.kind)
        if role == "solve":
            return solving_rewards(group)
        return tuple(self._proposal_reward(name, group, sample, solves) for sample in range(len(group.texts)))

    def _proposal_reward(self, name: str, group: Group, sample: int, solves: Solves) -> float:
        def intrinsic() -> float:
            if name == "induction":  # its program is not the proposer's own
                return 0.0
            exercise = Exercise.from_json(group.notes[sample])
            references = group.task.problem.extra["references"]
            return intrinsic_reward(exercise, references, self.buffers[name], self.azr)

        return proposal_reward(solves.get((group.task.key, sample)), intrinsic, self.azr)

    def _take_in(self, name: str, groups: Sequence[Group], solves: Solves) -> dict[str, float]:
        """Put a task's valid proposals into its buffer and return counters about them."""
        proposing = [group for group in groups if group.task.kind == f"propose_{name}"]
        asked = [group for group in groups if group.task.kind == f"solve_{name}" and group.task.parent is None]
        valid = [
            (exercise, solves[group.task.key, sample])
            for group in proposing
            for sample, exercise in _proposals(group)
            if (group.task.key, sample) in solves
        ]
        rates = [float(group.accuracy or 0) for _, group in valid]
        counters: dict[str, float] = {
            f"prompts_too_long/{name}": self.azr.prompts_per_task - len(proposing),
            f"valid/{name}": len(valid),
            f"learnable/{name}": sum(0 < rate < 1 for rate in rates),
            f"from_buffer/{name}": len(asked),
            f"frozen/{name}": len(proposing) if self.azr.freeze_proposer else 0,
            f"repeated/{name}": self.buffers[name].push(exercise for exercise, _ in valid),
            f"buffer/{name}": len(self.buffers[name]),
        }
        if valid:
            counters[f"proposal_solve_rate/{name}"] = fmean(rates)
            counters[f"program_nodes/{name}"] = fmean(nodes(exercise.program) for exercise, _ in valid)
        return counters

    def _reasons(self, groups: Sequence[Group], solves: Solves) -> dict[str, float]:
        """Count the reasons why proposals were not valid."""
        notes = [
            (note, (group.task.key, sample) in solves)
            for group in groups
            if task_of(group.task.kind)[0] == "propose"
            for sample, note in enumerate(group.notes)
        ]
        reasons = Counter(note.get("rejected", None if solved else Rejection.TOO_LONG) for note, solved in notes)
        return {f"rejected/{reason}": reasons[reason] for reason in Rejection}


def _proposals(group: Group) -> Iterator[tuple[int, Exercise]]:
    """Yield (place, exercise) of the valid proposals."""
    return ((sample, Exercise.from_json(note)) for sample, note in enumerate(group.notes) if "rejected" not in note)
