"""Held-out evaluation: pass@k and maj@k with confidence intervals, and the published figures to compare with."""

from fastsvs.evaluate.answered import Answered, figures, pass_rates
from fastsvs.evaluate.pass_at_k import Estimate, bootstrap, estimate, pass_at_k
from fastsvs.evaluate.runner import evaluate

__all__ = ["Answered", "Estimate", "bootstrap", "estimate", "evaluate", "figures", "pass_at_k", "pass_rates"]
