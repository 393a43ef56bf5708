"""Seconds that a trainer's host takes beside its GPU: packing plans, rows, and the comparison of weights, at 32B's
counts."""
