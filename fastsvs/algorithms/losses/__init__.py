"""Policy losses, registered by name in `LOSSES`.

Formulas that look at one token at a time are in `fastsvs.kernels.token_loss`, next to the kernel that computes them. A
formula that looks at sequences has a file here.
"""

from fastsvs.algorithms.losses import gspo, token
from fastsvs.algorithms.losses.registry import LOSSES

__all__ = ["LOSSES", "gspo", "token"]
