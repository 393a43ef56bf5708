"""Judges responses, in processes that can be killed: plain integers by comparison, other answers exactly or with
math-verify, or by a function of the user's own.

This package is imported in those processes too: it must stay light (no torch).
"""

from fastsvs.verify.answers import canonical_answer, majority_share
from fastsvs.verify.opening import AnswerVerifier, check_verifier, open_verifier
from fastsvs.verify.own import Problem
from fastsvs.verify.verdict import Finding, Verdict
from fastsvs.verify.verifier import Pending, Verifier, settled

__all__ = [
    "AnswerVerifier",
    "Finding",
    "Pending",
    "Problem",
    "Verdict",
    "Verifier",
    "canonical_answer",
    "check_verifier",
    "majority_share",
    "open_verifier",
    "settled",
]
