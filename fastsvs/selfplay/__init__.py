"""Self-play: select -> synthesize -> solve -> shape -> filter, a pure state machine over any rollout engine.

`collect` drives an `ExperienceStage` and returns the step's `Experience`. `STAGES` holds the stages by name: `svs`,
`upsampled`, `rise`, `azr`, and `none` for plain RLVR; a plug-in registers a `StageFactory` there. A `Sampler` chooses
which problems are asked.
"""

from fastsvs.selfplay.asked import chat_of
from fastsvs.selfplay.azr import AzrStage
from fastsvs.selfplay.budget import Budgeted, Portions, Savings, further_contexts, least_chance_to_inform
from fastsvs.selfplay.checking import JUDGES, Finding, Judge
from fastsvs.selfplay.collect import Schedule, collect, play
from fastsvs.selfplay.counters import count
from fastsvs.selfplay.refills import Refilling, substitutes_of
from fastsvs.selfplay.refinement import FATES, Chain, SelfStage
from fastsvs.selfplay.rise import VERIFICATION, RiseStage, load_verification_template, verification_prompt
from fastsvs.selfplay.samplers import SAMPLERS, Draw, Sampler, SamplerTools, ShuffledEpochs, gives_spares
from fastsvs.selfplay.stages import STAGES, PlainStage, Stage, StageFactory, StageTools
from fastsvs.selfplay.svs import SvsStage
from fastsvs.selfplay.types import (
    ANSWER,
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
from fastsvs.selfplay.upsampling import REPEAT, UpsampledStage
from fastsvs.selfplay.waves import Waves

__all__ = [
    "ANSWER",
    "FATES",
    "JUDGES",
    "KINDS",
    "ORIGINAL",
    "REPEAT",
    "SAMPLERS",
    "STAGES",
    "SYNTHESIS",
    "VARIANT",
    "VERIFICATION",
    "AzrStage",
    "Budgeted",
    "Chain",
    "Draw",
    "Experience",
    "ExperienceStage",
    "Finding",
    "Group",
    "Judge",
    "PlainStage",
    "Portions",
    "Refilling",
    "RiseStage",
    "Sampler",
    "SamplerTools",
    "Savings",
    "Schedule",
    "SelfStage",
    "ShuffledEpochs",
    "Stage",
    "StageFactory",
    "StageTools",
    "SvsStage",
    "Task",
    "UpsampledStage",
    "Waves",
    "chat_of",
    "collect",
    "count",
    "further_contexts",
    "gives_spares",
    "least_chance_to_inform",
    "load_verification_template",
    "original_tasks",
    "play",
    "substitutes_of",
    "verification_prompt",
]
