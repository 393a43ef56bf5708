"""Advantages: one file each, registered by name in `ADVANTAGES`."""

from fastsvs.algorithms.advantages.grpo import group_relative
from fastsvs.algorithms.advantages.registry import ADVANTAGES, AdvantageFn, token_advantages
from fastsvs.algorithms.advantages.rloo import leave_one_out
from fastsvs.algorithms.advantages.trr import whitened_by_kind
from fastsvs.algorithms.advantages.verl import shaped_advantages, shaping

__all__ = [
    "ADVANTAGES",
    "AdvantageFn",
    "group_relative",
    "leave_one_out",
    "shaped_advantages",
    "shaping",
    "token_advantages",
    "whitened_by_kind",
]
