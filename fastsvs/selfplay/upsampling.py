"""The control of SvS: problems that the policy half-solves are asked again, as often as SvS asks their variants.

It is the ablation of arXiv 2508.14029 that up-samples under-performing problems: what SvS gains over it comes from the
new problems, and not from more tries at hard ones.
"""

from __future__ import annotations

from dataclasses import replace

from fastsvs.selfplay.stages import STAGES, PlainStage
from fastsvs.selfplay.svs import context_samples
from fastsvs.selfplay.types import ORIGINAL, Group, Task

REPEAT = "repeat"


@STAGES.register("upsampled")
class UpsampledStage(PlainStage):
    """The stage that asks an under-performing problem again `variants_per_context` times for each correct response to
    it, `samples_per_variant` responses each time."""

    def expand(self, group: Group) -> list[Task]:
        if group.task.kind != ORIGINAL:
            return []
        return [
            replace(
                group.task,
                key=f"{group.task.child_key(sample)}/{time:03d}",
                kind=REPEAT,
                samples=self.config.samples_per_variant,
                parent=group.task.key,
                parent_sample=sample,
            )
            for sample in context_samples(group, self.config)
            for time in range(self.config.variants_per_context)
        ]
