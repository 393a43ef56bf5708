"""Advantages: one file each, registered by name in `ADVANTAGES`."""

from fastsvs.algorithms.advantages.grpo import group_relative
from fastsvs.algorithms.advantages.registry import ADVANTAGES, AdvantageFn, token_advantages
from fastsvs.algorithms.advantages.rloo import leave_one_out

__all__ = ["ADVANTAGES", "AdvantageFn", "group_relative", "leave_one_out", "token_advantages"]
