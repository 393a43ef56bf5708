"""Runs programs that a model wrote, each in an isolated process of its own that can compute and nothing else."""

from fastsvs.sandbox.isolation import Walls
from fastsvs.sandbox.pool import Outcome, Program, Sandbox, Status, same
from fastsvs.sandbox.values import Value

__all__ = ["Outcome", "Program", "Sandbox", "Status", "Value", "Walls", "same"]
