"""Benchmark of checkpoints: what a save costs the updates around it, and how fast one is written and read."""
