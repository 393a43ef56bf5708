"""Valid answers of a server to a request for samples. Any other answer is a fault of the server, not data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from fastsvs.rollout.engine import Rollout

LOGPROB_FLOOR = -9999.0
"""vLLM's stand-in for a log-prob that is not a number."""
ROUNDING = 1e-3
DIVERGED = (
    "the model's logits are not finite: its weights have diverged; lower policy.optimizer.learning_rate or go back to "
    "an earlier checkpoint"
)


OWN_WEIGHTS = "default"
"""Name that vLLM gives to the version of weights that nobody sent it."""


class NonsenseError(Exception):
    """The answer is not what was asked for."""


class AbortedError(Exception):
    """The server gave the request up, e.g. to get new weights."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Facts that an answer must agree with."""

    samples: int
    max_tokens: int
    stop_token_ids: Collection[int]
    vocabulary: int
    version: int
    """Version of the oldest weights that may have been used."""
    own_weights: bool = False
    """True where the server loaded its weights itself. It calls their version `default`, which then stands for
    `version`."""


def read_rollouts(answer: Any, expected: Expected) -> list[Rollout]:
    """Return the rollouts of an answer in sample order.

    Raises NonsenseError for an answer that is not valid, AbortedError when the server gave the request up, and
    FloatingPointError when the model has diverged.
    """
    try:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        _demand([choice["index"] for choice in choices] == list(range(expected.samples)), "wrong number of samples")
        if any(choice["finish_reason"] == "abort" for choice in choices):
            raise AbortedError
        return [_read_rollout(choice, expected) for choice in choices]
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise NonsenseError(f"answered nonsense: unreadable ({error!r})") from error


def _read_rollout(choice: dict[str, Any], expected: Expected) -> Rollout:
    ids = choice["token_ids"]
    entries = choice["logprobs"]["content"]
    logprobs = [entry["logprob"] for entry in entries]
    _demand(bool(ids), "an empty response")
    _demand(all(type(token) is int and 0 <= token < expected.vocabulary for token in ids), "ids outside the vocabulary")
    _demand([entry["token_id"] for entry in entries] == ids, "log-probs of other tokens than those sampled")
    _demand(
        all(isinstance(value, int | float) and isfinite(value) for value in logprobs), "log-probs that are no numbers"
    )
    if min(logprobs) <= LOGPROB_FLOOR:
        raise FloatingPointError(DIVERGED)
    _demand(max(logprobs) <= ROUNDING, "log-probs above 0")
    reason = _finish_reason(choice["finish_reason"], ids, expected)
    version, mixed = _versions(choice["weight_versions"], len(ids), expected)
    _demand(version >= expected.version, f"weights {version} instead of {expected.version}")
    return Rollout(tuple(ids), tuple(min(0.0, float(value)) for value in logprobs), reason, version, mixed)


def _finish_reason(reason: str, ids: list[int], expected: Expected) -> Literal["stop", "length"]:
    _demand(not any(token in expected.stop_token_ids for token in ids[:-1]), "tokens after the end of sequence")
    if ids[-1] in expected.stop_token_ids:
        _demand(len(ids) <= expected.max_tokens, "a response over its limit")
        return "stop"
    _demand(
        reason == "length" and len(ids) == expected.max_tokens,
        f"a response that ends by {reason!r} at {len(ids)} tokens",
    )
    return "length"


def _versions(spans: list[dict[str, Any]], tokens: int, expected: Expected) -> tuple[int, bool]:
    """Return the version of the first token's weights, and whether later tokens come from other weights."""
    ends = [0, *(span["end"] for span in spans)]
    _demand([span["start"] for span in spans] == ends[:-1] and ends[-1] == tokens, "weight versions with gaps")
    named = [span["version"] for span in spans]
    versions = [expected.version if expected.own_weights and name == OWN_WEIGHTS else int(name) for name in named]
    return versions[0], len(set(versions)) > 1


def _demand(holds: bool, fault: str) -> None:
    if not holds:
        raise NonsenseError(f"answered nonsense: {fault}")
