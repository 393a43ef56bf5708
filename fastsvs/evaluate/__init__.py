"""Held-out evaluation: pass@k and maj@k with confidence intervals, and the published figures to compare with."""

from fastsvs.evaluate.answered import Answered, figures, pass_rates
from fastsvs.evaluate.folder import EvaluationFolder
from fastsvs.evaluate.pass_at_k import Estimate, bootstrap, estimate, pass_at_k
from fastsvs.evaluate.published import Published, missing_cells, missing_text, our_cells, published_tables
from fastsvs.evaluate.runner import evaluate, greedy_repetitions
from fastsvs.evaluate.self_verification import SelfVerification
from fastsvs.evaluate.tables import show_comparison, show_results

__all__ = [
    "Answered",
    "Estimate",
    "EvaluationFolder",
    "Published",
    "SelfVerification",
    "bootstrap",
    "estimate",
    "evaluate",
    "figures",
    "greedy_repetitions",
    "missing_cells",
    "missing_text",
    "our_cells",
    "pass_at_k",
    "pass_rates",
    "published_tables",
    "show_comparison",
    "show_results",
]
