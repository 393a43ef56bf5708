"""The policy on Megatron-core: build, pack, step, weights in and out."""

import warnings

from fastsvs.policy.imports import check_backend, lean_imports

# Megatron names each optional accelerator that is absent, at import and once per module.
warnings.filterwarnings("ignore", module=r"megatron\.")
# Its distributed optimizer uses collectives under the names they had before torch 2.13, and looks at `.grad` of shards.
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")

with lean_imports():
    from fastsvs.architecture import Architecture, load_hf_config, read_architecture
    from fastsvs.layout_checks import check_layout
    from fastsvs.policy import checkpoint
    from fastsvs.policy.adapter_files import open_adapters, save_adapters
    from fastsvs.policy.bundles import Sizes, plan_rows
    from fastsvs.policy.companions import base_of, keep_base, write_companions
    from fastsvs.policy.degrees import Degrees
    from fastsvs.policy.export import save_hf
    from fastsvs.policy.learned import learned_entries, megatron_shapes
    from fastsvs.policy.mapping import hf_shapes
    from fastsvs.policy.merge_plan import MergePlan
    from fastsvs.policy.model import DTYPES
    from fastsvs.policy.offload import Offload
    from fastsvs.policy.parallel import check_schedule
    from fastsvs.policy.policy import Policy
    from fastsvs.policy.reference import FrozenBase
    from fastsvs.policy.statistics import PolicyStatistics
    from fastsvs.policy.stored import (
        MergedSource,
        StoredWeights,
        check_base,
        find_checkpoint,
        open_model,
        open_trained,
        open_weights,
        read_job,
    )
    from fastsvs.policy.stream import weight_specs
    from fastsvs.policy.training_state import replace_weights
    from fastsvs.policy.watch import TokenWatch
    from fastsvs.policy.weights import WeightSource, check_weights, open_source

__all__ = [
    "DTYPES",
    "Architecture",
    "Degrees",
    "FrozenBase",
    "MergePlan",
    "MergedSource",
    "Offload",
    "Policy",
    "PolicyStatistics",
    "Sizes",
    "StoredWeights",
    "TokenWatch",
    "WeightSource",
    "base_of",
    "check_backend",
    "check_base",
    "check_layout",
    "check_schedule",
    "check_weights",
    "checkpoint",
    "find_checkpoint",
    "hf_shapes",
    "keep_base",
    "learned_entries",
    "load_hf_config",
    "megatron_shapes",
    "open_adapters",
    "open_model",
    "open_source",
    "open_trained",
    "open_weights",
    "plan_rows",
    "read_architecture",
    "read_job",
    "replace_weights",
    "save_adapters",
    "save_hf",
    "weight_specs",
    "write_companions",
]
