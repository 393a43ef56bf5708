"""Rehearsal of a 32B job on a CPU: the shipped configuration with everything but the width of the model and its
GPUs."""
