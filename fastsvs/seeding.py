"""Seeds are derived from what they are for, never drawn from a shared stream.

A rollout's seed depends on (run seed, step, request), the data order on (run seed, epoch): nothing depends
on the order in which work finishes, and a resumed run needs no generator state.
"""

from __future__ import annotations

from hashlib import blake2b


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that is a pure function of `parts`."""
    digest = blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
