"""Checks answers: plain integers by comparison, everything else with math-verify in processes that can be killed."""

from fastsvs.verify.verdict import Verdict

__all__ = ["Verdict"]
