"""The policy on Megatron-core: build, pack, step, weights in and out."""

import warnings

# Megatron names each optional accelerator that is absent, at import and once per module.
warnings.filterwarnings("ignore", module=r"megatron\.")

from fastsvs.policy.architecture import Architecture, check_layout, load_hf_config, read_architecture  # noqa: E402
from fastsvs.policy.mapping import hf_shapes  # noqa: E402
from fastsvs.policy.policy import Policy  # noqa: E402

__all__ = ["Architecture", "Policy", "check_layout", "hf_shapes", "load_hf_config", "read_architecture"]
