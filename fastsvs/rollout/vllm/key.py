"""The key of the servers: the user's own, from the environment, or a random one for servers that the job starts."""

from __future__ import annotations

import os
import secrets

from fastsvs.config import RolloutConfig
from fastsvs.errors import UserError


def own_key(rollout: RolloutConfig) -> str | None:
    """Return the key that the environment holds, or None without one.

    Raises UserError for a key that no header can carry, and where external servers need one that is not there.
    """
    config = rollout.server
    name, key = config.api_key_variable, os.environ.get(config.api_key_variable)
    if key:
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UserError(f"{name} must hold printable ASCII characters without spaces or line breaks")
        return key
    if rollout.placement == "external" and not config.unguarded:
        raise UserError(
            f"{name} must hold the key of the servers in rollout.server.urls (rollout.server.api_key_variable), which "
            "they have in VLLM_API_KEY; servers without a guard are used with rollout.server.unguarded=true alone"
        )
    return None


def key_of(rollout: RolloutConfig) -> str:
    """Return the user's key, or a random one. Raises UserError as `own_key` does."""
    return own_key(rollout) or secrets.token_urlsafe(32)


def shared_key(rollout: RolloutConfig, key: str) -> str:
    """Return what other nodes are told of the key: all of it if it was made here, nothing if it is the user's, which
    each node has in its environment. Every process of the network can read the job's store."""
    return "" if own_key(rollout) == key else key


def key_from(told: str, rollout: RolloutConfig) -> str:
    """Return the key on another node, given what `shared_key` told it. Raises UserError when it is in this node's
    environment alone, or not there."""
    own = own_key(rollout)
    if told and not own:
        return told
    if own and not told:
        return own
    raise UserError(
        f"{rollout.server.api_key_variable} must be set on all nodes of the job or on none, and "
        f"{'only this one has it' if own else 'this one lacks it'}"
    )
