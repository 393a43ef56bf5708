"""Absolute Zero (AZR, arXiv 2505.03335): the policy writes programs for itself to understand, without any data.

An exercise is a program with inputs and outputs. Deduction asks for the output, abduction for an input that gives the
output, induction for the program, given half of its inputs and outputs and a message. The policy proposes exercises of
all three and solves them; running the programs, in the sandbox, says what is right.
"""

from fastsvs.selfplay.azr.exercises import Buffer, Exercise
from fastsvs.selfplay.azr.judge import AzrJudge
from fastsvs.selfplay.azr.proposals import Rejection
from fastsvs.selfplay.azr.stage import AzrStage
from fastsvs.selfplay.azr.templates import KINDS, Templates, load_templates

__all__ = [
    "KINDS",
    "AzrJudge",
    "AzrStage",
    "Buffer",
    "Exercise",
    "Rejection",
    "Templates",
    "load_templates",
]
