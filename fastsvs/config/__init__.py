"""The whole configuration as typed models.

A YAML file may name a parent, or several, with `extends: other.yaml` (relative to itself) or, of those that come with
FastSvS, `extends: fastsvs:tiny_svs`, and states only what differs.
On the command line any key is set as `a.b=value`. An unknown key is an error that names the nearest known one.
"""

from fastsvs.config.azr import AzrConfig, IntrinsicConfig, TermConfig
from fastsvs.config.jobs import EvalJob, SelfJob, SftJob, TrainJob
from fastsvs.config.loading import Job, dump, load
from fastsvs.config.methods import (
    CovoConfig,
    MajorityConfig,
    MergingConfig,
    RiseConfig,
    SamplerConfig,
    SelfConfig,
    SelfVerificationConfig,
    VerlConfig,
)
from fastsvs.config.section import Section
from fastsvs.config.sections import (
    AlgorithmConfig,
    DataConfig,
    DynamicsConfig,
    EvaluationConfig,
    EvaluationSet,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    RolloutConfig,
    RunConfig,
    SamplingPlan,
    SandboxConfig,
    ScheduleConfig,
    SelfPlayConfig,
    ServerConfig,
    SftDataConfig,
    ShapingConfig,
    SyncConfig,
    VerifierConfig,
)

__all__ = [
    "AlgorithmConfig",
    "AzrConfig",
    "CovoConfig",
    "DataConfig",
    "DynamicsConfig",
    "EvalJob",
    "EvaluationConfig",
    "EvaluationSet",
    "IntrinsicConfig",
    "Job",
    "LoggingConfig",
    "MajorityConfig",
    "MergingConfig",
    "ModelConfig",
    "OptimizerConfig",
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
    "SyncConfig",
    "TermConfig",
    "TrainJob",
    "VerifierConfig",
    "VerlConfig",
    "dump",
    "load",
]
