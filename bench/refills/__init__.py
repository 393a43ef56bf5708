"""Benchmark of dynamic sampling."""
