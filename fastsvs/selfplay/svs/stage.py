"""SvS: the policy rewrites correct responses to half-solved problems into new problems, and solves those too.

One step follows arXiv 2508.14029, algorithm 1, with the constants and the inclusive ranges of its code. Every correct
response to a problem with accuracy in `context_range` is a context. The policy writes `variants_per_context` problems
from each. Each valid one inherits the original answer and is solved `samples_per_variant` times. Writing it is rewarded
when its accuracy lies in `positive_range`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastsvs.config import SelfPlayConfig
from fastsvs.selfplay.stages import STAGES, PlainStage, StageTools, conclude, informative
from fastsvs.selfplay.svs.extraction import Rejection, Variant, read_variants
from fastsvs.selfplay.svs.shaping import context_samples, contexts_in_range, deserves_reward, rate_of_variants
from fastsvs.selfplay.templates import read_template, shown
from fastsvs.selfplay.types import ORIGINAL, SYNTHESIS, VARIANT, Experience, Group, Task

PLACEHOLDER = "{response}"


def load_template(path: str | None) -> str:
    """Load the synthesis prompt at `path`, or the built-in one. Raises UserError when it cannot be used."""
    return read_template(path, "variational_problem.txt", ("response",), "selfplay.template")


@STAGES.register("svs")
class SvsStage(PlainStage):
    """The stage of SvS: select, synthesize, solve, shape, filter. It holds no state but its configuration."""

    def __init__(self, config: SelfPlayConfig, tools: StageTools) -> None:
        super().__init__(config, tools)
        self.template = load_template(config.template)

    def expand(self, group: Group) -> list[Task]:
        if group.task.kind == ORIGINAL:
            return self.synthesis_tasks(group, context_samples(group, self.config))
        return self._variant_tasks(group) if group.task.kind == SYNTHESIS else []

    def finish(self, groups: Sequence[Group]) -> Experience:
        variants = {
            (group.task.parent, group.task.parent_sample): group for group in groups if group.task.kind == VARIANT
        }
        rewarded = [self._rewarded(group, variants) for group in groups]
        experience = conclude(rewarded, self._keep)
        return replace(experience, counters=experience.counters | self._selfplay_counters(rewarded))

    def synthesis_tasks(self, group: Group, samples: Sequence[int]) -> list[Task]:
        """Return the tasks that rewrite these responses to an original, without those whose prompts are too long."""
        tasks = []
        for sample in samples:
            context = shown(group.texts[sample], self.config)
            prompt_ids = self.tools.encode_message(self.template.replace(PLACEHOLDER, context))
            if len(prompt_ids) <= self.tools.max_prompt_tokens:
                tasks.append(
                    Task(
                        key=group.task.child_key(sample),
                        kind=SYNTHESIS,
                        problem=group.task.problem,
                        prompt_ids=prompt_ids,
                        samples=self.config.variants_per_context,
                        parent=group.task.key,
                        parent_sample=sample,
                        judge=None,
                        max_tokens=self.config.max_synthesis_tokens or self.tools.max_response_tokens,
                        solve_rate=rate_of_variants(group.accuracy, group.verified),
                    )
                )
        return tasks

    def _variant_tasks(self, group: Group) -> list[Task]:
        tasks = []
        for sample, variant in enumerate(self._variants(group)):
            if variant.rejection is not None:
                continue
            key = group.task.child_key(sample)
            problem = replace(
                group.task.problem, id=f"{group.task.problem.id}:{key}", question=variant.question, solution=None
            )
            prompt_ids = self.tools.encode_problem(problem)
            if len(prompt_ids) <= self.tools.max_prompt_tokens:
                tasks.append(
                    Task(
                        key=key,
                        kind=VARIANT,
                        problem=problem,
                        prompt_ids=prompt_ids,
                        samples=self.config.samples_per_variant,
                        parent=group.task.key,
                        parent_sample=sample,
                        max_tokens=self.tools.max_response_tokens,
                        solve_rate=group.task.solve_rate,
                    )
                )
        return tasks

    def _variants(self, group: Group) -> list[Variant]:
        question, thoughts_end = group.task.problem.question, self.config.thoughts_end
        return read_variants(group.texts, question, self.template, thoughts_end)

    def _rewarded(self, group: Group, variants: Mapping[tuple[str | None, int | None], Group]) -> Group:
        """Return the group with rewards, and with the reasons why problems that it wrote were not solved."""
        if group.task.kind != SYNTHESIS:
            return replace(group, rewards=group.marks())
        otherwise = -1.0 if self.config.shaping.negative else 0.0
        solved = [variants.get((group.task.key, sample)) for sample in range(len(group.texts))]
        rewards = tuple(1.0 if v is not None and deserves_reward(v, self.config) else otherwise for v in solved)
        rejections = tuple(
            None if answers is not None else str(variant.rejection or Rejection.TOO_LONG)
            for variant, answers in zip(self._variants(group), solved, strict=True)
        )
        return replace(group, rewards=rewards, rejections=rejections)

    def _keep(self, group: Group) -> bool:
        return 1.0 in group.rewards if group.task.kind == SYNTHESIS else informative(group)

    def _selfplay_counters(self, groups: Sequence[Group]) -> dict[str, float]:
        synthesis = [group for group in groups if group.task.kind == SYNTHESIS]
        contexts = contexts_in_range(groups, self.config)
        found = sum(map(len, contexts.values()))
        reasons = Counter(reason for group in synthesis for reason in group.rejections)
        unread = reasons[Rejection.NO_MARKER] + reasons[Rejection.UNCLOSED]
        counters: dict[str, float] = {
            "underperforming": len(contexts),
            "contexts": found,
            "contexts_too_long": found - sum(group.task.parent in contexts for group in synthesis),
            "variants_asked": reasons.total(),
            "variants_extracted": reasons.total() - unread,
            "variants_valid": reasons[None],
            "variants_positive": sum(group.rewards.count(1.0) for group in synthesis),
        }
        return counters | {f"rejected/{reason}": reasons[reason] for reason in Rejection}
