"""Self-play: select -> synthesize -> solve -> shape -> filter, a pure state machine over any rollout engine.

`collect` drives an `ExperienceStage` and gives the step's `Experience`. Stages by name are in `STAGES`: `svs`, and
`none` for plain RLVR; a plug-in registers a `StageFactory` there.
"""

from fastsvs.selfplay.collect import collect
from fastsvs.selfplay.stages import STAGES, PlainStage, StageFactory
from fastsvs.selfplay.svs import SvsStage, load_template
from fastsvs.selfplay.types import (
    KINDS,
    ORIGINAL,
    SYNTHESIS,
    VARIANT,
    Experience,
    ExperienceStage,
    Group,
    Task,
    original_tasks,
)

__all__ = [
    "KINDS",
    "ORIGINAL",
    "STAGES",
    "SYNTHESIS",
    "VARIANT",
    "Experience",
    "ExperienceStage",
    "Group",
    "PlainStage",
    "StageFactory",
    "SvsStage",
    "Task",
    "collect",
    "load_template",
    "original_tasks",
]
