"""HTTP client of vLLM servers for samples and health; nothing here changes weights."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

import aiohttp

from fastsvs.errors import EngineFailure
from fastsvs.open_files import EXHAUSTED, limit
from fastsvs.rollout.engine import Rollout
from fastsvs.rollout.vllm.answer import Expected, NonsenseError, read_rollouts
from fastsvs.rollout.vllm.dispatch import Call
from fastsvs.sync import Endpoint

GENERATE = "/inference/v1/generate"
HEALTH = "/health"
"""Route that answers as long as the HTTP front end lives."""
PAUSED = "/is_paused"
"""Route whose answer comes from the engine behind the front end; the engine answers between batches, but not during a
weight update."""
PROCESSED = "processed_logprobs"
SETTINGS = "/server_info?config_format=json"
CONNECT_SECONDS = 10.0
SETTINGS_SECONDS = 60.0
"""Longest wait for a server's settings, in seconds: vLLM first collects facts about its system."""
KEEP_SECONDS = 2.0
"""Time after which an idle connection is closed, in seconds: well before vLLM closes it, which is after 5."""
CONTROL_CONNECTIONS = 4
"""Connections to one server for anything but samples; those for samples may all be taken."""
FILES_SECONDS = 60.0
"""Longest wait, in seconds, for a file to be closed in this process when it may open no more."""
BYTES_PER_TOKEN = 512
"""Upper bound on the bytes of an answer per token."""
LARGEST_SEED = 2**62
"""Bound on a request's seed: vLLM's seeds are signed 64-bit integers, and sample i of a request gets seed + i."""


class UnreachableError(Exception):
    """The server could not be reached, or the connection broke."""


class Client:
    """HTTP client, to be created, used and closed inside one running event loop."""

    def __init__(
        self,
        stop_token_ids: Collection[int],
        vocabulary: int,
        max_sequences: int,
        max_sequence_tokens: int,
        connections: int,
        own_weights: bool = False,
    ) -> None:
        """Open a session. `vocabulary` is the number of token ids that the model can sample, `connections` the largest
        number of requests for samples to one server at a time; more wait here. For the other arguments see
        VllmEngine."""
        self._stop = frozenset(stop_token_ids)
        self._vocabulary = vocabulary
        self._max_sequences = max_sequences
        self._max_sequence_tokens = max_sequence_tokens
        self._own_weights = own_weights
        self._samples, self._control = _session(connections), _session(CONTROL_CONNECTIONS)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._samples.close()
        await self._control.close()

    async def generate(self, endpoint: Endpoint, call: Call, version: int) -> list[Rollout]:
        """Return the call's rollouts in sample order. Cancelling this makes the server stop working on the call.

        Raises UnreachableError; NonsenseError; AbortedError; EngineFailure for a request that the server finds wrong;
        FloatingPointError when the model has diverged.
        """
        request = call.group.request
        limit = request.sampling.max_tokens
        body = {"token_ids": request.prompt_ids, "sampling_params": self._sampling(call)}
        status, answer = await self._post(endpoint, body, (_samples(call) * limit + 64) * BYTES_PER_TOKEN)
        if status in (400, 422):
            raise EngineFailure(f"{endpoint.url} refuses request {request.key!r}: {_excerpt(answer)}")
        if status != 200:
            raise NonsenseError(f"answered with status {status}: {_excerpt(answer)}")
        expected = Expected(_samples(call), limit, self._stop, self._vocabulary, version, self._own_weights)
        rollouts = read_rollouts(_parse(answer), expected)
        if not _is_greedy(call):
            return rollouts
        [rollout] = rollouts  # its log-probs are those of sampling at temperature 1
        return [replace(rollout, logprobs=(0.0,) * len(rollout.response_ids))] * len(call.samples)

    async def warm_up(self, endpoint: Endpoint) -> None:
        """Sample one token, because the first request is the one that compiles."""
        sampling = {"max_tokens": 1, "detokenize": False}
        status, answer = await self._post(
            endpoint, {"token_ids": [0], "sampling_params": sampling}, 64 * BYTES_PER_TOKEN
        )
        if status != 200:
            raise NonsenseError(f"answered with status {status}: {_excerpt(answer)}")

    async def check_settings(self, endpoint: Endpoint) -> None:
        """Check the settings of a server that somebody else started. Raises EngineFailure for settings under which its
        samples would be wrong or our requests refused; otherwise raises as `probe` does."""
        answer = _parse(await self._ask("GET", endpoint, SETTINGS, SETTINGS_SECONDS))
        try:
            model, scheduler = (answer["vllm_config"][part] for part in ("model_config", "scheduler_config"))
            mode, length, count = model["logprobs_mode"], model["max_model_len"], scheduler["max_num_seqs"]
            faults = [
                f"{option} is {found} and must be {wanted}"
                for wrong, option, found, wanted in (
                    (mode != PROCESSED, "--logprobs-mode", mode, PROCESSED),
                    (length < self._max_sequence_tokens, "--max-model-len", length, self._max_sequence_tokens),
                    (count < self._max_sequences, "--max-num-seqs", count, self._max_sequences),
                )
                if wrong
            ]
        except (KeyError, TypeError) as error:
            raise NonsenseError(f"says nothing about its settings: {error!r}") from error
        if faults:
            raise EngineFailure(f"the server at {endpoint.url} was started for something else: {'; '.join(faults)}")

    async def probe(self, endpoint: Endpoint, path: str, timeout: float) -> None:
        """Ask for `path` to check that the server is well. Raises UnreachableError without a connection, NonsenseError
        when the server answers that it is not well, and TimeoutError when it does not answer within `timeout`
        seconds."""
        await self._ask("GET", endpoint, path, timeout)

    async def command(self, endpoint: Endpoint, path: str, timeout: float) -> None:
        """Send a POST without a body to `path`. Raises as `probe` does."""
        await self._ask("POST", endpoint, path, timeout)

    async def _ask(self, method: str, endpoint: Endpoint, path: str, timeout: float) -> bytes:
        limits = aiohttp.ClientTimeout(total=timeout)
        url = endpoint.url + path
        try:
            async with _request(self._control, method, url, headers=_headers(endpoint), timeout=limits) as response:
                answer = await response.read()
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(str(error)) from error
        if response.status >= 400:
            raise NonsenseError(f"{path} answered with status {response.status}")
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
            "stop_token_ids": sorted(self._stop),
            "ignore_eos": True,  # of the tokenizer: ours are in stop_token_ids
            "logprobs": 0,  # of the sampled token alone
            "detokenize": False,
        }

    async def _post(self, endpoint: Endpoint, body: dict[str, Any], largest: int) -> tuple[int, bytes]:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        try:
            async with _request(
                self._samples, "POST", endpoint.url + GENERATE, json=body, headers=_headers(endpoint), timeout=limits
            ) as response:
                answer = bytearray()
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > largest:
                        raise NonsenseError(f"answered with more than {largest} bytes")
                return response.status, bytes(answer)
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(str(error) or type(error).__name__) from error


def _samples(call: Call) -> int:
    """Return how many samples to ask for: of greedy ones, which are all the same, servers give no more than one."""
    return 1 if _is_greedy(call) else len(call.samples)


def _is_greedy(call: Call) -> bool:
    return call.group.request.sampling.temperature == 0


def _session(connections: int) -> aiohttp.ClientSession:
    """Return a session with up to `connections` connections to each server, which are used again. A request that is
    cancelled closes its connection, by which vLLM knows that nobody waits for the answer."""
    connector = aiohttp.TCPConnector(limit=0, limit_per_host=connections, keepalive_timeout=KEEP_SECONDS)
    return aiohttp.ClientSession(connector=connector)


@asynccontextmanager
async def _request(
    session: aiohttp.ClientSession, method: str, url: str, **options: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send a request. Where this process may open no more files, which is no fault of the server, wait until it may;
    raise EngineFailure after FILES_SECONDS."""
    deadline = time.monotonic() + FILES_SECONDS
    while True:
        try:
            response = await session.request(method, url, **options)
            break
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            if time.monotonic() > deadline:
                raise EngineFailure(
                    f"the trainer can open no more files, {limit()} at most, and so cannot reach {url}: raise the "
                    "limit before the start (`ulimit -n`)"
                ) from error
        await asyncio.sleep(FILES_SECONDS / 100)
    async with response:
        yield response


def _headers(endpoint: Endpoint) -> dict[str, str]:
    return {"Authorization": f"Bearer {endpoint.api_key}"}


def _parse(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except ValueError as error:
        raise NonsenseError(f"did not answer with JSON: {_excerpt(answer)}") from error


def _excerpt(answer: bytes) -> str:
    return answer[:500].decode(errors="replace")
