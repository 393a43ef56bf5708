"""The samples of a step that is planned: from the samples of a run, or from stated assumptions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fastsvs.config import TrainJob
from fastsvs.data import Problem
from fastsvs.plan.ledger import Basis, assumed
from fastsvs.plan.machine import StepTokens
from fastsvs.plan.workload import Lengths, Workload, run_step
from fastsvs.rollout import Engine, Request, SamplingParams
from fastsvs.seeding import derive_seed
from fastsvs.selfplay import SYNTHESIS, Experience, Group, Schedule, Task

PROMPT_TOKENS = 200
LONGEST_MEDIAN = 1000
LEARNED = 0.6
ASSUMPTIONS = assumed(
    f"log-normal lengths with a median of an eighth of the limit, at most {LONGEST_MEDIAN}, and a 99th percentile at "
    f"10 times of it; prompts of {PROMPT_TOKENS} tokens; 30% of the problems have 1 to 4 contexts, 80% of the variants "
    f"are valid, {LEARNED:.0%} of the groups are learned from"
)


@dataclass(frozen=True, slots=True)
class Answers:
    """The responses to one prompt."""

    key: str
    """Name within the step: that of the group it follows from, a slash, and its own number."""
    kind: str
    prompt: int
    """Length of the prompt in tokens."""
    responses: tuple[int, ...]
    """Length of each response in tokens."""
    learned: bool
    """True where the group is learned from."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """A step's groups, as a step that a simulated engine can be given (`Work`)."""

    groups: Sequence[Answers]
    limit: int
    """Longest response in tokens."""
    basis: Basis

    @property
    def learned(self) -> list[Answers]:
        return [group for group in self.groups if group.learned]

    @cached_property
    def samples(self) -> int:
        return sum(len(group.responses) for group in self.groups)

    @cached_property
    def response_tokens(self) -> int:
        return sum(sum(group.responses) for group in self.groups)

    @cached_property
    def prompt_tokens(self) -> int:
        """Return the number of prompt tokens, a prompt counted for each response."""
        return sum(group.prompt * len(group.responses) for group in self.groups)

    @cached_property
    def mean_context(self) -> float:
        """Return the mean number of tokens of a sequence that is being decoded, over all decode steps."""
        seen = sum(n * (group.prompt + n / 2) for group in self.groups for n in group.responses)
        return seen / max(self.response_tokens, 1)

    @property
    def tokens(self) -> StepTokens:
        """Return the step's size."""
        return StepTokens(self.samples, self.prompt_tokens, self.response_tokens, self.mean_context)

    def collect(self, engine: Engine, schedule: Schedule) -> Experience:
        """Run the whole step on `engine`."""
        tasks = [_task(group) for group in self.groups if "/" not in group.key]
        return run_step(self, tasks, engine, SamplingParams(max_tokens=self.limit), 0, schedule)

    def length(self, request: Request, sample: int) -> int:
        """Return the tokens of a response to a request."""
        return self._by_key[request.key].responses[sample]

    def expand(self, group: Group) -> list[Task]:
        """Return the tasks that follow from a group."""
        return [_task(child) for child in self._children.get(group.task.key, ())]

    def finish(self, groups: Sequence[Group]) -> Experience:
        return Experience(list(groups), {})

    @cached_property
    def _by_key(self) -> Mapping[str, Answers]:
        return {group.key: group for group in self.groups}

    @cached_property
    def _children(self) -> Mapping[str, list[Answers]]:
        found: dict[str, list[Answers]] = defaultdict(list)
        for group in self.groups:
            parent, slash, _ = group.key.rpartition("/")
            if slash:
                found[parent].append(group)
        return found


def assumed_step(job: TrainJob, seed: int = 0) -> Sampled:
    """Return a step of the job under ASSUMPTIONS."""
    limit = job.rollout.max_response_tokens
    lengths = Lengths(max(1, min(LONGEST_MEDIAN, limit // 8)), 10.0, limit, within_group=0.5)
    plays = job.selfplay.stage != "none"
    work = Workload(
        prompts=job.run.prompts_per_step,
        samples=job.rollout.samples_per_prompt,
        lengths=lengths,
        underperforming=0.3 if plays else 0.0,
        variants=job.selfplay.variants_per_context,
        variant_samples=job.selfplay.samples_per_variant,
        seed=seed,
    )
    prompt = min(PROMPT_TOKENS, job.data.max_prompt_tokens)
    groups, waiting = [], work.tasks()
    while waiting:
        task = waiting.pop()
        drawn = tuple(lengths.of(task, sample, seed) for sample in range(task.samples))
        read = prompt + (round(lengths.median) if task.kind == SYNTHESIS else 0)
        learned = np.random.default_rng(derive_seed(seed, "learned", task.key)).random() < LEARNED
        groups.append(Answers(task.key, str(task.kind), min(read, job.data.max_prompt_tokens), drawn, bool(learned)))
        waiting += work.follow(task)
    return Sampled(groups, limit, ASSUMPTIONS)


def drawn_step(job: TrainJob, families: Sequence[Sequence[Answers]], basis: Basis, seed: int = 0) -> Sampled:
    """Return a step of the job whose problems are drawn from the `families` of a run: each is a problem's group, which
    comes first, and what followed from it. Longer responses than the job's limit are cut."""
    choices = np.random.default_rng(seed).integers(0, len(families), job.run.prompts_per_step)
    groups = []
    for number, choice in enumerate(choices):
        family = families[choice] if job.selfplay.stage != "none" else families[choice][:1]
        root = family[0].key
        for group in family:
            key = f"{number:06d}{group.key.removeprefix(root)}"
            cut = tuple(min(length, job.rollout.max_response_tokens) for length in group.responses)
            groups.append(replace(group, key=key, responses=cut))
    return Sampled(groups, job.rollout.max_response_tokens, basis)


def _task(group: Answers) -> Task:
    problem = Problem(group.key, group.key, "1")
    return Task(group.key, group.kind, problem, (0,) * group.prompt, len(group.responses))
