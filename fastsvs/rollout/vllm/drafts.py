"""Speculative decoding as servers count it: the tokens that were drafted, and those of them that were accepted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from fastsvs.client import NonsenseError, UnreachableError
from fastsvs.rollout.vllm.client import Client
from fastsvs.rollout.vllm.member import Member

ANSWER_SECONDS = 10.0
"""Longest wait for a server's statistics, in seconds; a server that says nothing is asked again with the next."""
COUNTED = re.compile(rb"^vllm:spec_decode_num_(draft|accepted)_tokens_total(?:\{[^}]*\})? ([0-9.eE+]+)$", re.MULTILINE)
"""Pattern of the two counters in vLLM's /metrics."""

Counts = dict[str, float]
"""Number of tokens that were drafted (`draft`) and accepted (`accepted`)."""


@dataclass
class Drafts:
    """The counts of all servers since the start of the engine. Those of a server that ends are lost from the last look
    on."""

    drafted: float = 0.0
    accepted: float = 0.0
    _seen: dict[tuple[str, int], Counts] = field(default_factory=dict)
    """Counts of each start of a server as they were last seen."""

    async def look(self, client: Client, members: Sequence[Member]) -> None:
        """Ask the servers that are up for their counts."""
        await asyncio.gather(*(self._look_at(client, member) for member in members))

    async def _look_at(self, client: Client, member: Member) -> None:
        endpoint = member.endpoint
        if endpoint is not None:
            with suppress(UnreachableError, NonsenseError, TimeoutError):
                found = counts(await client.statistics(endpoint, ANSWER_SECONDS))
                self._add((endpoint.name, endpoint.incarnation), found)

    def _add(self, start: tuple[str, int], found: Counts) -> None:
        before = self._seen.get(start, {})
        self.drafted += found["draft"] - before.get("draft", 0.0)
        self.accepted += found["accepted"] - before.get("accepted", 0.0)
        self._seen[start] = found


def counts(statistics: bytes) -> Counts:
    """Return the counts in a server's statistics, 0 where it has none; several engines of one server are added up."""
    found: Counts = {"draft": 0.0, "accepted": 0.0}
    for kind, value in COUNTED.findall(statistics):
        found[kind.decode()] += float(value)
    return found
