"""Policy losses: one file each, registered by name in `LOSSES`; formulas as in the papers that the files name."""

from fastsvs.algorithms.losses import cispo, gspo, ppo, sapo
from fastsvs.algorithms.losses.registry import LOG_RATIO_LIMIT, LOSSES, clamped_log_ratio

__all__ = ["LOG_RATIO_LIMIT", "LOSSES", "cispo", "clamped_log_ratio", "gspo", "ppo", "sapo"]
