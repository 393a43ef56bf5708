"""Valid answers of a server to a request for samples. Any other answer is a fault of the server, not data."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic_core import from_json

from fastsvs.client.experts import read_experts
from fastsvs.client.faults import AbortedError, NonsenseError, demand
from fastsvs.client.messages import ExpertShape, Sample

LOGPROB_FLOOR = -9999.0
"""vLLM's stand-in for a log-prob that is not a number."""
ROUNDING = 1e-3
DIVERGED = (
    "the model's logits are not finite: its weights have diverged; lower policy.optimizer.learning_rate or go back to "
    "an earlier checkpoint"
)


OWN_WEIGHTS = "default"
"""Name that vLLM gives to the version of weights that nobody sent it."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Facts that an answer must agree with."""

    samples: int
    max_tokens: int
    stop_token_ids: Set[int]
    vocabulary: int
    version: int
    """Version of the oldest weights that may have been used."""
    own_weights: bool = False
    """True where the server loaded its weights itself. It calls their version `default`, which then stands for
    `version`."""
    prompt_tokens: int = 0
    """Length of the prompt in tokens; it counts only with `experts`."""
    experts: ExpertShape | None = None
    """Shape of the experts of each token; None where nobody asks for them, and what the server says is not read."""


def read_samples(answer: bytes, expected: Expected) -> list[Sample]:
    """Return the samples of an answer in their order.

    Raises NonsenseError for an answer that is not valid, AbortedError when the server gave the request up, and
    FloatingPointError when the model has diverged.
    """
    try:
        parsed = from_json(answer)
    except ValueError as error:
        raise NonsenseError(f"did not answer with JSON: {excerpt(answer)}") from error
    try:
        choices = sorted(parsed["choices"], key=lambda choice: choice["index"])
        demand([choice["index"] for choice in choices] == list(range(expected.samples)), "wrong number of samples")
        if any(choice["finish_reason"] == "abort" for choice in choices):
            raise AbortedError
        return [_read_sample(choice, expected) for choice in choices]
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as error:
        raise NonsenseError(f"answered nonsense: unreadable ({error!r})") from error


def excerpt(answer: bytes) -> str:
    """Return the beginning of an answer, for a message."""
    return answer[:500].decode(errors="replace")


def _read_sample(choice: dict[str, Any], expected: Expected) -> Sample:
    """Check a choice of the answer. Whatever runs for every token is a loop in C."""
    ids, entries = choice["token_ids"], choice["logprobs"]["content"]
    values = [entry["logprob"] for entry in entries]
    demand(bool(ids), "an empty response")
    whole = set(map(type, ids)) == {int}
    demand(whole and min(ids) >= 0 and max(ids) < expected.vocabulary, "ids outside the vocabulary")
    demand([entry["token_id"] for entry in entries] == ids, "log-probs of other tokens than those sampled")
    demand(set(map(type, values)) <= {int, float}, "log-probs that are no numbers")
    logprobs = np.array(values, dtype=np.float64)
    demand(bool(np.isfinite(logprobs).all()), "log-probs that are no numbers")
    if logprobs.min() <= LOGPROB_FLOOR:
        raise FloatingPointError(DIVERGED)
    demand(logprobs.max() <= ROUNDING, "log-probs above 0")
    reason = _finish_reason(choice["finish_reason"], ids, expected)
    version, mixed = _versions(choice["weight_versions"], len(ids), expected)
    demand(version >= expected.version, f"weights {version} instead of {expected.version}")
    experts = None
    if expected.experts is not None:
        experts = read_experts(choice["routed_experts"], expected.prompt_tokens + len(ids) - 1, expected.experts)
    return Sample(np.array(ids, dtype=np.int32), np.minimum(logprobs, 0.0), reason, version, mixed, experts)


def _finish_reason(reason: str, ids: list[int], expected: Expected) -> Literal["stop", "length"]:
    demand(expected.stop_token_ids.isdisjoint(ids[:-1]), "tokens after the end of sequence")
    if ids[-1] in expected.stop_token_ids:
        demand(len(ids) <= expected.max_tokens, "a response over its limit")
        return "stop"
    demand(
        reason == "length" and len(ids) == expected.max_tokens,
        f"a response that ends by {reason!r} at {len(ids)} tokens",
    )
    return "length"


def _versions(spans: list[dict[str, Any]], tokens: int, expected: Expected) -> tuple[int, bool]:
    """Return the version of the first token's weights, and whether later tokens come from other weights."""
    ends = [0, *(span["end"] for span in spans)]
    demand([span["start"] for span in spans] == ends[:-1] and ends[-1] == tokens, "weight versions with gaps")
    named = [span["version"] for span in spans]
    versions = [expected.version if expected.own_weights and name == OWN_WEIGHTS else int(name) for name in named]
    return versions[0], len(set(versions)) > 1
