"""Policy losses by name."""

from __future__ import annotations

from fastsvs.algorithms.terms import PolicyLoss
from fastsvs.registry import Registry

LOSSES = Registry[PolicyLoss]("policy loss", takes=("terms", "config"))
