"""Held-out evaluation: pass@k with confidence intervals."""

from fastsvs.evaluate.pass_at_k import Estimate, estimate, pass_at_k
from fastsvs.evaluate.runner import Evaluation, evaluate

__all__ = ["Estimate", "Evaluation", "estimate", "evaluate", "pass_at_k"]
