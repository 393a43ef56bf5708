"""The whole configuration as typed models.

A YAML file may name one or more parents with `extends: other.yaml` (relative to itself), or with
`extends: fastsvs:tiny_svs` one that comes with FastSvS; it states only what differs.
On the command line any key is set as `a.b=value`. An unknown key is an error that names the nearest known one.
"""

from fastsvs.config.azr import AzrConfig, IntrinsicConfig, TermConfig
from fastsvs.config.comparison import differences, flatten
from fastsvs.config.jobs import EvalJob, SelfJob, SftJob, TrainJob
from fastsvs.config.learning import AlgorithmConfig, LoraConfig, OptimizerConfig, PolicyConfig
from fastsvs.config.loading import Job, build, dump, load
from fastsvs.config.methods import (
    BudgetConfig,
    CovoConfig,
    MajorityConfig,
    MergingConfig,
    RiseConfig,
    SamplerConfig,
    SelfConfig,
    SelfVerificationConfig,
    VerlConfig,
)
from fastsvs.config.rollout import Placement, RolloutConfig, ServerConfig, SpeculativeConfig, SyncConfig
from fastsvs.config.running import DynamicsConfig, LoggingConfig, RunConfig
from fastsvs.config.section import Section
from fastsvs.config.sections import (
    DataConfig,
    EvaluationConfig,
    EvaluationSet,
    ModelConfig,
    SamplingPlan,
    SandboxConfig,
    ScheduleConfig,
    SelfPlayConfig,
    SftDataConfig,
    ShapingConfig,
    TemplateConfig,
    TrainedModelConfig,
    VerifierConfig,
)

__all__ = [
    "AlgorithmConfig",
    "AzrConfig",
    "BudgetConfig",
    "CovoConfig",
    "DataConfig",
    "DynamicsConfig",
    "EvalJob",
    "EvaluationConfig",
    "EvaluationSet",
    "IntrinsicConfig",
    "Job",
    "LoggingConfig",
    "LoraConfig",
    "MajorityConfig",
    "MergingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Placement",
    "PolicyConfig",
    "RiseConfig",
    "RolloutConfig",
    "RunConfig",
    "SamplerConfig",
    "SamplingPlan",
    "SandboxConfig",
    "ScheduleConfig",
    "Section",
    "SelfConfig",
    "SelfJob",
    "SelfPlayConfig",
    "SelfVerificationConfig",
    "ServerConfig",
    "SftDataConfig",
    "SftJob",
    "ShapingConfig",
    "SpeculativeConfig",
    "SyncConfig",
    "TemplateConfig",
    "TermConfig",
    "TrainJob",
    "TrainedModelConfig",
    "VerifierConfig",
    "VerlConfig",
    "build",
    "differences",
    "dump",
    "flatten",
    "load",
]
