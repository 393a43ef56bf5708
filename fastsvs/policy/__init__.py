"""The policy on Megatron-core: build, pack, step, weights in and out."""

import warnings

from fastsvs.policy.imports import lean_imports

# Megatron names each optional accelerator that is absent, at import and once per module.
warnings.filterwarnings("ignore", module=r"megatron\.")
# Its distributed optimizer uses collectives under the names they had before torch 2.13, and looks at `.grad` of shards.
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")

with lean_imports():
    from fastsvs.architecture import Architecture, check_layout, load_hf_config, read_architecture
    from fastsvs.policy.mapping import hf_shapes
    from fastsvs.policy.parallel import check_schedule
    from fastsvs.policy.policy import Examination, Policy
    from fastsvs.policy.step import LARGEST

__all__ = [
    "LARGEST",
    "Architecture",
    "Examination",
    "Policy",
    "check_layout",
    "check_schedule",
    "hf_shapes",
    "load_hf_config",
    "read_architecture",
]
