"""Answers as vLLM's token route gives them, and what they were asked for."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import Any

import numpy as np

from fastsvs.client import Expected

EXPECTED = Expected(samples=2, max_tokens=3, stop_token_ids={9}, vocabulary=20, version=7)


def choice(index: int, ids: list[int], reason: str, versions: list[tuple[str, int, int]]) -> dict[str, Any]:
    return {
        "index": index,
        "finish_reason": reason,
        "token_ids": ids,
        "logprobs": {"content": [{"token_id": token, "logprob": -0.5 - token} for token in ids]},
        "weight_versions": [{"version": version, "start": start, "end": end} for version, start, end in versions],
    }


def good() -> dict[str, Any]:
    return {
        "choices": [
            choice(1, [4, 9], "stop", [("7", 0, 1), ("8", 1, 2)]),
            choice(0, [1, 2, 3], "length", [("8", 0, 3)]),
        ]
    }


def written(array: np.ndarray) -> str:
    """An array as vLLM's server writes it."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return b64encode(file.getvalue()).decode()
