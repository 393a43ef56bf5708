"""Weights of a 0.5 B-parameter policy to a receiver in another process, against a plain broadcast of the same bytes."""
