"""The experts that computed each token, as vLLM's `--enable-return-routed-experts` says them: a `.npy` file in base64.

The file is read by its parts, without NumPy's loader: the header says what there is before anything is made of it.
"""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from itertools import combinations
from math import prod

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fastsvs.client.faults import demand
from fastsvs.client.messages import ExpertShape

DTYPES = [np.dtype(name) for name in ("|u1", "<u2", "<i4")]
"""Types of the numbers: vLLM takes the narrowest one that holds them."""
HEADER_BYTES = 256
"""Largest header; vLLM's have 118 bytes."""
LARGEST_BYTES = 4 * 4 / 3
"""Bytes of an answer per number, at most."""


def answer_bytes(shape: ExpertShape) -> int:
    """Return an upper bound on the bytes of an answer that say a token's experts."""
    return int(shape.layers * shape.active * LARGEST_BYTES) + 1


def read_experts(text: object, tokens: int, shape: ExpertShape) -> NDArray[np.int16]:
    """Return the numbers of the experts, [tokens, layers with experts, active].

    Raises NonsenseError for none, or others than this shape allows, among them a token with one expert twice: that is
    what a kernel leaves that does not write down what it did. Raises ValueError for what is neither base64 nor `.npy`.
    """
    demand(isinstance(text, str), "no experts: it must be started with --enable-return-routed-experts")
    file = BytesIO(b64decode(str(text), validate=True))
    demand(npy.read_magic(file) == (1, 0), "experts in another version of .npy")
    found, by_columns, dtype = npy.read_array_header_1_0(file, max_header_size=HEADER_BYTES)
    wanted = (tokens, shape.layers, shape.active)
    demand(found == wanted and not by_columns, f"experts of shape {found} instead of {wanted}")
    demand(dtype in DTYPES, f"experts as {dtype}")
    body = file.getbuffer()[file.tell() :]
    demand(len(body) == dtype.itemsize * prod(wanted), f"experts in {len(body)} bytes")
    experts = np.frombuffer(body, dtype=dtype).reshape(wanted)[:, list(shape.routed)]
    demand(bool(experts.min() >= 0 and experts.max() < shape.count), f"experts outside the layer's {shape.count}")
    places = [np.ascontiguousarray(experts[..., place]) for place in range(shape.active)]
    demand(not any((a == b).any() for a, b in combinations(places, 2)), "a token with one expert twice")
    return experts.astype(np.int16)
