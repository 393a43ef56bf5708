"""Checks answers: plain integers by comparison, everything else with math-verify in processes that can be killed.

This package is imported in those processes too: it must stay light (no torch).
"""

from fastsvs.verify.answers import canonical_answer, majority_share
from fastsvs.verify.verdict import Verdict
from fastsvs.verify.verifier import Pending, Verifier, settled

__all__ = [
    "Pending",
    "Verdict",
    "Verifier",
    "canonical_answer",
    "majority_share",
    "settled",
]
