"""Benchmark of the local engine, which `fastsvs eval` and rollouts on a CPU decode with, on a small real model."""
