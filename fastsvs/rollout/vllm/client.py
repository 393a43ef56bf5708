"""Client of vLLM servers: samples through processes of their own, health and other small calls from here. Nothing here
changes weights."""

from __future__ import annotations

import json
from dataclasses import replace
from types import TracebackType
from typing import Any

import aiohttp

from fastsvs.client import Ask, ClientPool, NonsenseError, Setup, excerpt, open_session, read_whole, send
from fastsvs.errors import EngineFailure
from fastsvs.rollout.engine import Rollout
from fastsvs.rollout.vllm.command import EXPERTS
from fastsvs.rollout.vllm.dispatch import Call
from fastsvs.sync import Endpoint

GENERATE = "/inference/v1/generate"
HEALTH = "/health"
"""Route that answers as long as the HTTP front end lives."""
PAUSED = "/is_paused"
"""Route whose answer comes from the engine behind the front end; the engine answers between batches, but not during a
weight update."""
STATISTICS = "/metrics"
PROCESSED = "processed_logprobs"
PRIORITY = "priority"
"""Policy of vLLM's scheduler under which a request may have a priority."""
SETTINGS = "/server_info?config_format=json"
SETTINGS_SECONDS = 60.0
"""Longest wait for a server's settings, in seconds: vLLM first collects facts about its system."""
CONNECTIONS = 4
"""Connections to one server for anything but samples."""
LARGEST_SEED = 2**62
"""Bound on a request's seed: vLLM's seeds are signed 64-bit integers, and sample i of a request gets seed + i."""


class Client:
    """Client of all servers, to be created, used and closed inside one running event loop."""

    def __init__(self, setup: Setup, processes: int, max_sequences: int, max_sequence_tokens: int) -> None:
        """Open a session. `setup` is for the up to `processes` client processes; for the other arguments see
        VllmEngine."""
        self._stop = sorted(setup.stop_token_ids)
        self._asks_experts = setup.experts is not None
        self._max_sequences = max_sequences
        self._max_sequence_tokens = max_sequence_tokens
        self._pool = ClientPool(setup, processes)
        self._session = open_session(CONNECTIONS)
        self._places: dict[str, int] = {}
        """Number of each server, which decides on its client process."""
        self._in_order: set[str] = set()
        """Names of the servers that know no priorities."""

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.close()
        await self._session.close()

    async def generate(self, endpoint: Endpoint, call: Call, version: int) -> list[Rollout]:
        """Return the call's rollouts in sample order. Raises what `ClientPool.ask` raises. Cancelling this makes the
        server stop working on the call."""
        place = self._places.setdefault(endpoint.name, len(self._places))
        request = call.group.request
        priority = 0 if endpoint.name in self._in_order else request.priority
        sampling = self._sampling(call)
        ask = Ask(request.key, endpoint.url, endpoint.api_key, request.prompt_ids, sampling, version, priority)
        rollouts = [
            Rollout(
                tuple(sample.ids.tolist()),
                tuple(sample.logprobs.tolist()),
                sample.finish_reason,
                sample.version,
                sample.mixed,
                sample.experts,
            )
            for sample in await self._pool.ask(place, ask)
        ]
        if not _is_greedy(call):
            return rollouts
        [rollout] = rollouts  # its log-probs are those of sampling at temperature 1
        return [replace(rollout, logprobs=(0.0,) * len(rollout.response_ids))] * len(call.samples)

    async def warm_up(self, endpoint: Endpoint) -> None:
        """Sample one token, because the first request is the one that compiles. Raises as `probe` does, without a time
        limit."""
        sampling = {"max_tokens": 1, "detokenize": False}
        await self._ask("POST", endpoint, GENERATE, None, json={"token_ids": [0], "sampling_params": sampling})

    async def check_guard(self, endpoint: Endpoint) -> None:
        """Check that a server that somebody else started asks for the key where vLLM alone does not. Raises
        EngineFailure for one that does not; otherwise raises as `probe` does."""
        limits = aiohttp.ClientTimeout(total=SETTINGS_SECONDS)
        async with send(self._session, "GET", endpoint.url + PAUSED, None, timeout=limits) as response:
            await read_whole(response)
        if response.status != 401:
            raise EngineFailure(
                f"the server at {endpoint.url} answers {PAUSED} without a key (status {response.status}), so that "
                "whoever reaches it controls it: start it as `python -m fastsvs.vllm_server` with its key in "
                "VLLM_API_KEY, or set rollout.server.unguarded=true where nobody else reaches it"
            )

    async def check_settings(self, endpoint: Endpoint) -> None:
        """Check the settings of a server that somebody else started. Raises EngineFailure for settings under which its
        samples would be wrong or our requests refused; otherwise raises as `probe` does.

        A server without `--scheduling-policy priority` serves what it has been sent in the order in which it came."""
        answer = _parse(await self._ask("GET", endpoint, SETTINGS, SETTINGS_SECONDS))
        try:
            model, scheduler = (answer["vllm_config"][part] for part in ("model_config", "scheduler_config"))
            silent = self._asks_experts and not answer["vllm_config"]["aux_output_config"][EXPERTS.replace("-", "_")]
            mode, length, count = model["logprobs_mode"], model["max_model_len"], scheduler["max_num_seqs"]
            faults = [
                f"{option} is {found} and must be {wanted}"
                for wrong, option, found, wanted in (
                    (mode != PROCESSED, "--logprobs-mode", mode, PROCESSED),
                    (length < self._max_sequence_tokens, "--max-model-len", length, self._max_sequence_tokens),
                    (count < self._max_sequences, "--max-num-seqs", count, self._max_sequences),
                    (silent, f"--{EXPERTS}", "off", "on for policy.router_replay=rollout"),
                )
                if wrong
            ]
        except (KeyError, TypeError) as error:
            raise NonsenseError(f"says nothing about its settings: {error!r}") from error
        if scheduler.get("policy") != PRIORITY:
            self._in_order.add(endpoint.name)
        if faults:
            raise EngineFailure(f"the server at {endpoint.url} was started for something else: {'; '.join(faults)}")

    async def probe(self, endpoint: Endpoint, path: str, timeout: float) -> None:
        """Ask for `path` to check that the server is well. Raises UnreachableError without a connection, NonsenseError
        when the server answers that it is not well, and TimeoutError when it does not answer within `timeout`
        seconds."""
        await self._ask("GET", endpoint, path, timeout)

    async def statistics(self, endpoint: Endpoint, timeout: float) -> bytes:
        """Return the server's statistics in the format of Prometheus. Raises as `probe` does."""
        return await self._ask("GET", endpoint, STATISTICS, timeout)

    async def command(self, endpoint: Endpoint, path: str, timeout: float) -> None:
        """Send a POST without a body to `path`. Raises as `probe` does."""
        await self._ask("POST", endpoint, path, timeout)

    async def _ask(self, method: str, endpoint: Endpoint, path: str, timeout: float | None, **options: Any) -> bytes:
        limits = aiohttp.ClientTimeout(total=timeout)
        url = endpoint.url + path
        async with send(self._session, method, url, endpoint.api_key, timeout=limits, **options) as response:
            answer = await read_whole(response)
        if not 200 <= response.status < 300:
            raise NonsenseError(f"{path} answered with status {response.status}: {excerpt(answer)}")
        return answer

    def _sampling(self, call: Call) -> dict[str, Any]:
        request, sampling = call.group.request, call.group.request.sampling
        return {
            "n": _samples(call),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_tokens,
            "seed": request.seed % LARGEST_SEED + call.samples.start,
            "stop_token_ids": self._stop,
            "ignore_eos": True,  # of the tokenizer: ours are in stop_token_ids
            "logprobs": 0,  # of the sampled token alone
            "detokenize": False,
        }


def _samples(call: Call) -> int:
    """Return how many samples to ask for: of greedy ones, which are all the same, servers give no more than one."""
    return 1 if _is_greedy(call) else len(call.samples)


def _is_greedy(call: Call) -> bool:
    return call.group.request.sampling.temperature == 0


def _parse(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise NonsenseError(f"did not answer with JSON: {excerpt(answer)}") from error
