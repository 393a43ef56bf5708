"""The policy on Megatron-core: build, pack, step, weights in and out."""

import sys
import warnings

# Megatron imports wandb wherever it is installed, which takes over a second and needs none of it.
_hidden = sys.modules.setdefault("wandb", None) is None  # type: ignore[arg-type]
# Megatron names each optional accelerator that is absent, at import and once per module.
warnings.filterwarnings("ignore", module=r"megatron\.")
# Its distributed optimizer uses collectives under the names they had before torch 2.13, and looks at `.grad` of shards.
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")

from fastsvs.architecture import Architecture, check_layout, load_hf_config, read_architecture  # noqa: E402
from fastsvs.policy.mapping import hf_shapes  # noqa: E402
from fastsvs.policy.policy import Examination, Policy  # noqa: E402
from fastsvs.policy.step import LARGEST  # noqa: E402

if _hidden:
    del sys.modules["wandb"]

__all__ = [
    "LARGEST",
    "Architecture",
    "Examination",
    "Policy",
    "check_layout",
    "hf_shapes",
    "load_hf_config",
    "read_architecture",
]
