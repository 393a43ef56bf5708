"""Benchmark of weights of a 0.5 B-parameter policy sent to another process, against a plain broadcast of as many
bytes."""
