"""Variables by which CUDA and torch's allocator are set for training. They are read when CUDA is first used, so they
are set before torch is imported; this file needs the standard library alone."""

from __future__ import annotations

from collections.abc import MutableMapping

LAUNCHES = "CUDA_DEVICE_MAX_CONNECTIONS"
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Names of the variable for torch's allocator; torch takes either."""
TRAINER_VARIABLES = (LAUNCHES, *ALLOCATOR)
"""Variables that are meant for trainers alone. Rollout servers do not inherit them: one hardware queue would serialise
vLLM's streams, and expandable segments exclude its sleep mode and registered KV caches."""


def set_trainer_variables(environment: MutableMapping[str, str], shares_memory: bool) -> None:
    """Set what the user has not set. `shares_memory` is True where servers on the trainer's GPUs read its memory.

    One hardware queue keeps the order of launches, which Megatron-core relies on to overlap communication with
    computation. Expandable segments keep rows of ever new lengths from fragmenting memory. They are left out where
    memory is shared: torch hands such segments over as file descriptors, which the receiver may fetch only with the
    right to trace the trainer (pidfd_getfd), and containers and Ubuntu's Yama withhold that; where it is granted,
    opening them is several times slower, as vLLM notes for its own transfers (sharded_rdt_trainer.py).
    """
    environment.setdefault(LAUNCHES, "1")
    if not shares_memory and not any(environment.get(name) for name in ALLOCATOR):
        environment[ALLOCATOR[0]] = "expandable_segments:True"
