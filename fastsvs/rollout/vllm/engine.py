"""The `Engine` whose samples come from vLLM servers: a plain object for the main rank, with an event loop behind it."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from math import ceil
from typing import Any, TypeVar

from torch import Tensor

from fastsvs import distributed, open_files
from fastsvs.architecture import read_architecture
from fastsvs.client import ExpertShape, Setup
from fastsvs.config import ServerConfig
from fastsvs.errors import UserError
from fastsvs.layout_checks import check_server
from fastsvs.rollout.engine import Request, Rollout
from fastsvs.rollout.nodes import read_nodes
from fastsvs.rollout.registry import ENGINES, EnginePlan, EngineSpec
from fastsvs.rollout.requests import RequestLimits
from fastsvs.rollout.vllm.client import Client
from fastsvs.rollout.vllm.dispatch import Dispatcher
from fastsvs.rollout.vllm.experts import expert_shape
from fastsvs.rollout.vllm.fleet import ACCEPTED, DRAFTED, Fleet
from fastsvs.rollout.vllm.key import key_of
from fastsvs.rollout.vllm.options import check_modes
from fastsvs.rollout.vllm.placement import check_servers, serve_node, servers_of, shared_control, shares_devices
from fastsvs.rollout.vllm.server import Server
from fastsvs.sync import Endpoint

T = TypeVar("T")
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 2.0
"""Bounds of the temperature: vLLM raises lower ones and refuses higher ones; 0 is greedy."""
QUEUED_SHARE = 2
"""Samples in flight on a server, as a multiple of those it decodes at a time, so that it never waits for the
trainer."""
ANSWER_SECONDS = 30.0
CLOSE_SECONDS = 60.0


@ENGINES.register("vllm")
class VllmEngine:
    """An `Engine` on vLLM servers. It is not collective: the main rank alone calls it. Weights come through
    `fastsvs.sync`, which asks for `endpoints`.

    Sample i of a request is seeded with seed + i. Two runs with the same requests on as many servers give the same
    samples as far as vLLM's arithmetic does not depend on the other sequences in a batch. At fp32 a sampled token then
    differs only where rounding decides, and from there on the rest of that response.
    """

    collective = False

    def __init__(
        self,
        servers: Sequence[Server],
        config: ServerConfig,
        *,
        api_key: str,
        eos_token_ids: Collection[int],
        vocabulary: int,
        max_sequences: int,
        max_sequence_tokens: int,
        client_processes: int = 1,
        shares_devices: bool = False,
        own_weights: bool = False,
        experts: ExpertShape | None = None,
        speculates: bool = False,
    ) -> None:
        """Start all servers; `endpoints` waits for them.

        `vocabulary` is the number of token ids, `max_sequences` the number of sequences that one server decodes at a
        time, and `max_sequence_tokens` the longest prompt with its response. `client_processes` is the largest number
        of processes that ask the servers for samples. `shares_devices` is True where servers use the trainer's GPUs,
        which the trainer needs between rollouts. `own_weights` is True where servers load their weights when they
        start, and nobody sends any. `experts` is the shape of the experts that rollouts are to say, or None.
        `speculates` is True where servers decode speculatively and count their drafts.
        """
        self._shares_devices, self._speculates = shares_devices, speculates
        self._limits = RequestLimits(
            vocabulary,
            max_sequence_tokens,
            "the servers' max-model-len of ",
            temperature=_can_sample_at,
            temperatures=f"be 0 or lie in [{LOWEST_TEMPERATURE}, {HIGHEST_TEMPERATURE}]",
        )
        self._open: dict[str, Request] = {}
        self._results: queue.SimpleQueue[tuple[Request, list[Rollout]] | None] = queue.SimpleQueue()
        """Finished groups; None wakes the reader when the engine has failed."""
        self._error: BaseException | None = None
        self._loaded = False
        self._counters: dict[str, float] = {}
        self._agent: threading.Thread | None = None
        self._ready = threading.Event()
        dispatcher = Dispatcher(max_sequences, QUEUED_SHARE * max_sequences)
        connections = connections_per_server(len(servers), client_processes, max_sequences)
        setup = Setup(tuple(eos_token_ids), vocabulary, own_weights, connections, experts)

        async def run() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            async with Client(setup, client_processes, max_sequences, max_sequence_tokens) as client:
                self._fleet = Fleet(servers, client, config, api_key, dispatcher, self._finished, self._failed)
                self._ready.set()
                await self._stop.wait()
                await self._fleet.close()

        self._thread = threading.Thread(target=lambda: asyncio.run(run()), name="vllm-fleet", daemon=True)
        self._thread.start()
        if not self._ready.wait(ANSWER_SECONDS):
            raise RuntimeError("the event loop of the rollout servers did not start")

    @property
    def fleet(self) -> VllmEngine:
        return self

    @classmethod
    def check(cls, plan: EnginePlan) -> None:
        for section, asked in plan.asked.items():
            if not _can_sample_at(asked.temperature):
                raise UserError(
                    f"{section}.temperature={asked.temperature}: servers of rollout.engine=vllm sample at temperatures "
                    f"in [{LOWEST_TEMPERATURE}, {HIGHEST_TEMPERATURE}], or evaluate at 0 (greedy)"
                )
        check_modes(plan)
        check_server(read_architecture(plan.hf_config), plan.rollout)
        check_servers(plan.rollout, plan.here, tells_experts=plan.tells_experts)

    @classmethod
    def build(cls, spec: EngineSpec) -> VllmEngine:
        """Build the engine with the servers of `spec.rollout` on the main rank, and without any on the others. The
        first rank of another node runs that node's servers for the main rank; with other nodes, `announced` must have
        been entered."""
        config = spec.rollout.server
        nodes = read_nodes(spec.rollout)
        main, control = distributed.is_main(), shared_control()
        api_key = key_of(spec.rollout)
        engine = cls(
            servers_of(spec, api_key, nodes, control) if main else [],
            config,
            api_key=api_key,
            eos_token_ids=spec.eos_token_ids,
            vocabulary=spec.hf_config.vocab_size,
            max_sequences=spec.rollout.max_sequences,
            max_sequence_tokens=spec.max_sequence_tokens,
            client_processes=spec.rollout.client_processes,
            shares_devices=shares_devices(spec),
            own_weights=spec.weights is not None,
            experts=expert_shape(spec.hf_config) if spec.tells_experts else None,
            speculates=spec.rollout.speculative.method != "none",
        )
        if control and not main:
            engine._agent = threading.Thread(target=serve_node, args=(spec, nodes, control), daemon=True)
            engine._agent.start()
        return engine

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue the requests. Raises UserError for a request that no server can serve; then none of `requests` is
        queued."""
        if not self._loaded:
            raise ValueError("weights must be published before the first request")
        self._limits.check(requests, self._open)
        self._open |= {request.key: request for request in requests}
        self._tell(lambda: self._fleet.submit(requests))

    def abort(self, keys: Collection[str]) -> None:
        gone = [key for key in keys if self._open.pop(key, None)]
        self._tell(lambda: self._fleet.abort(gone))

    def poll(self, timeout: float) -> list[tuple[str, list[Rollout]]]:
        """Return finished groups as `Engine` says. Raises EngineFailure when no server is left, FloatingPointError when
        the model has diverged."""
        finished: list[tuple[str, list[Rollout]]] = []
        deadline = time.monotonic() + timeout
        while self._open:
            left = 0.0 if finished or self._error else max(0.0, deadline - time.monotonic())
            try:
                result = self._results.get(timeout=left) if left else self._results.get_nowait()
            except queue.Empty:
                break
            request, rollouts = result or (None, [])
            if request and self._open.get(request.key) is request:  # not given up in the meantime
                del self._open[request.key]
                finished.append((request.key, rollouts))
        if self._error and self._open and not finished:
            raise self._error
        return finished

    def pending(self) -> int:
        return len(self._open)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        raise TypeError("weights reach vLLM servers through fastsvs.sync.BroadcastSync")

    def endpoints(self, timeout: float) -> list[Endpoint]:
        """Return all servers that are up, ready to receive weights within `timeout` seconds from now.

        Waits up to `timeout` seconds for those being restarted; when none is up, waits until one has started. Raises
        EngineFailure when there will be none.
        """
        return self._ask(self._fleet.endpoints(timeout), None)

    def report_failure(self, endpoint: Endpoint, reason: str) -> None:
        """Restart this server if it is ours; its requests go to other servers."""
        self._tell(lambda: self._fleet.report_failure(endpoint, reason))

    def weights_loaded(self, endpoint_names: Collection[str], version: int) -> None:
        """Note that these of the servers that `endpoints` returned now hold `version` and may get requests."""
        self._loaded = True
        self._tell(lambda: self._fleet.weights_loaded(endpoint_names, version))

    def stale(self) -> bool:
        """Return True when a healthy server does not hold the current version; it gets no requests before the next
        publish. Raises EngineFailure when no server is left."""
        if self._error:
            raise self._error
        return self._ask(_value(self._fleet.stale), ANSWER_SECONDS)

    def sleep(self) -> None:
        """Have servers that share GPUs with the trainer free their memory until `endpoints` wakes them for weights;
        others do nothing. No request may be pending."""
        if self._shares_devices:
            self._ask(self._fleet.sleep(), ANSWER_SECONDS * 5)

    def metrics(self) -> dict[str, float]:
        """Return what was counted since the last call, and gauges of the present state."""
        if self._speculates:
            self._ask(self._fleet.look_at_drafts(), ANSWER_SECONDS)
        gauges, counters = self._ask(_value(self._fleet.metrics), ANSWER_SECONDS)
        since, self._counters = self._counters, counters
        counted = {name: float(value - since.get(name, 0.0)) for name, value in counters.items()}
        if drafted := counted.get(DRAFTED):
            gauges["rollout/accepted_share"] = counted[ACCEPTED] / drafted
        return gauges | counted

    def close(self) -> None:
        """End all servers of ours, and wait until they are gone."""
        if self._thread.is_alive():
            self._tell(self._stop.set)
            self._thread.join(CLOSE_SECONDS)
        if self._agent:
            self._agent.join(CLOSE_SECONDS)

    def _finished(self, request: Request, rollouts: list[Rollout]) -> None:
        self._results.put((request, rollouts))

    def _failed(self, error: BaseException) -> None:
        self._error = error
        self._results.put(None)

    def _tell(self, action: Callable[[], None]) -> None:
        def run() -> None:
            try:
                action()
            except Exception as error:
                self._failed(error)

        self._loop.call_soon_threadsafe(run)

    def _ask(self, question: Coroutine[Any, Any, T], timeout: float | None) -> T:
        return asyncio.run_coroutine_threadsafe(question, self._loop).result(timeout)


def _can_sample_at(temperature: float) -> bool:
    return temperature == 0 or LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE


def connections_per_server(servers: int, processes: int, max_sequences: int) -> int:
    """Return the bound on connections to each of `servers`, dealt to so many client processes: one for each sample in
    flight, or as many as the limit on open files leaves, but not fewer than there are sequences to decode, for which
    `check_servers` asks."""
    left = (open_files.limit() - open_files.RESERVED) // max(1, ceil(servers / processes))
    return max(max_sequences, min(QUEUED_SHARE * max_sequences, left))


async def _value(function: Callable[[], T]) -> T:
    return function()
