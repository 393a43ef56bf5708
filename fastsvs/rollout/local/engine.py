"""The in-process engine: every rank holds all weights, decodes a share of the samples and sees all results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PretrainedConfig

from fastsvs import distributed
from fastsvs.architecture import Architecture, read_architecture, rotary_table
from fastsvs.errors import UserError
from fastsvs.invariant import check_machine
from fastsvs.kernels.invariant import batch_invariant
from fastsvs.rollout.engine import Request, Rollout
from fastsvs.rollout.local.batch import ContinuousBatch, Job
from fastsvs.rollout.local.decoder import Decoder, rotations
from fastsvs.rollout.local.invariant import InvariantDecoder
from fastsvs.rollout.local.places import destinations, load
from fastsvs.rollout.local.sharding import deal
from fastsvs.rollout.local.weights import allocate
from fastsvs.rollout.registry import ENGINES, EnginePlan, EngineSpec
from fastsvs.rollout.requests import RequestLimits

STEPS_PER_ROUND = 16
"""Number of tokens that every sequence gets before the ranks exchange what has finished."""


@ENGINES.register("local")
class LocalEngine:
    """An `Engine` in PyTorch alone, for the models of a laptop and for small ones on a GPU.

    It decodes inside `poll`, in rounds of STEPS_PER_ROUND tokens: one round with timeout 0, otherwise until a group is
    finished.

    Rows of a batch do not affect each other, but the order of fp32 additions may depend on the shape of the batch. The
    same requests give the same bits in every run; beside other requests log-probs may differ by rounding, unless the
    engine is `deterministic`.
    """

    collective = True
    fleet = None

    def __init__(
        self,
        hf_config: PretrainedConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        eos_token_ids: Sequence[int],
        max_sequences: int,
        tells_experts: bool = False,
        deterministic: bool = False,
    ) -> None:
        """Build an engine that decodes `max_sequences` at a time on each rank. `tells_experts` is about the rollouts of
        a model with experts. A `deterministic` one computes a dense model in fp32 on a CPU with the trainer's
        arithmetic, so that log-probs have the same bits beside any other requests, and in a policy that is as
        deterministic. Raises UserError for a model that is not supported."""
        self._shape = read_architecture(hf_config)
        check_vocabulary(eos_token_ids, self._shape.vocabulary)
        parameters = allocate(self._shape, dtype, device)
        self._places = destinations(parameters, self._shape, as_trained=deterministic)
        decoder = Decoder(self._shape, parameters, rotations(hf_config).to(device))
        if deterministic:
            with batch_invariant():
                table = rotary_table(hf_config, self._shape.max_positions)
            decoder = InvariantDecoder(self._shape, parameters, table)
        self._limits = RequestLimits(
            self._shape.vocabulary,
            self._shape.max_positions,
            "the model's max_position_embeddings=",
            temperature=lambda temperature: temperature >= 0,
            temperatures="be at least 0",
        )
        self._batch = ContinuousBatch(decoder, eos_token_ids, max_sequences, tells_experts=tells_experts)
        self._version: int | None = None
        self._submitted: list[Request] = []
        self._open: dict[str, _Open] = {}
        self._loads = [0] * distributed.world_size()
        """Number of samples in flight on each rank."""

    @classmethod
    def check(cls, plan: EnginePlan) -> None:
        shape = read_architecture(plan.hf_config)
        if plan.rollout.speculative.method != "none":
            raise UserError(
                f"rollout.speculative.method={plan.rollout.speculative.method} is an option of servers: set "
                "rollout.engine=vllm, or leave it out"
            )
        if plan.rollout.quantization != "none":
            raise UserError(
                f"rollout.quantization={plan.rollout.quantization} is an option of servers: set rollout.engine=vllm, "
                "or leave it out"
            )
        if plan.rollout.deterministic:
            check_deterministic(plan, shape)
        check_vocabulary(plan.eos_token_ids, shape.vocabulary)
        for section, asked in plan.asked.items():
            if asked.tokens > shape.max_positions:
                raise UserError(
                    f"{section}: the longest prompt and the response limit make sequences of {asked.tokens} tokens, "
                    f"but the model has positions for {shape.max_positions}: lower max_response_tokens or "
                    "max_prompt_tokens"
                )

    @classmethod
    def build(cls, spec: EngineSpec) -> LocalEngine:
        return cls(
            spec.hf_config,
            dtype=spec.dtype,
            device=spec.device,
            eos_token_ids=spec.eos_token_ids,
            max_sequences=spec.rollout.max_sequences,
            tells_experts=spec.tells_experts,
            deterministic=spec.rollout.deterministic,
        )

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue the requests. Raises UserError for a request that the model cannot serve; then none of `requests` is
        queued."""
        self._limits.check(requests, self._open)
        self._submitted += requests
        self._open |= {request.key: _Open(request.numbers, [0] * len(self._loads)) for request in requests}

    def abort(self, keys: Collection[str]) -> None:
        gone = set(keys) & self._open.keys()
        self._submitted = [request for request in self._submitted if request.key not in gone]
        self._batch.drop(gone)
        for key in gone:
            self._loads = [load - left for load, left in zip(self._loads, self._open.pop(key).in_flight, strict=True)]

    def poll(self, timeout: float) -> list[tuple[str, list[Rollout]]]:
        finished: list[tuple[str, list[Rollout]]] = []
        while self._open and not finished:
            finished = self._round()
            if timeout <= 0:
                break
        return finished

    def pending(self) -> int:
        return len(self._open)

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Replace all weights. Raises UserError when a weight is missing, unknown or misshapen; the engine then serves
        nothing until the next load."""
        if self._open:
            raise ValueError(f"new weights while {len(self._open)} requests are pending")
        self._version = None
        with torch.no_grad():
            load(self._places, tensors)
        self._version = version

    def stale(self) -> bool:
        return False

    def sleep(self) -> None:
        """Do nothing, because the engine shares no device with a process of its own."""

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        """Do nothing, because nothing outlives the object."""

    def _round(self) -> list[tuple[str, list[Rollout]]]:
        """Decode one round on every rank, share what has finished, and return the groups that are now complete."""
        if self._version is None:
            raise ValueError("load_weights must come before the first poll()")
        self._deal_submitted()
        complete = []
        for rank, finished in enumerate(distributed.gather(self._batch.advance(STEPS_PER_ROUND, self._version))):
            self._loads[rank] -= len(finished)
            for key, sample, rollout in finished:
                group = self._open[key]
                group.rollouts[sample] = rollout
                group.in_flight[rank] -= 1
                if len(group.rollouts) == len(group.samples):
                    del self._open[key]
                    complete.append((key, [group.rollouts[number] for number in group.samples]))
        return complete

    def _deal_submitted(self) -> None:
        requests, self._submitted = self._submitted, []
        if not requests:
            return
        dealt: list[Job] = []
        for rank, index, places in deal([request.samples for request in requests], self._loads):
            request = requests[index]
            samples = request.numbers[places.start : places.stop]
            self._loads[rank] += len(samples)
            self._open[request.key].in_flight[rank] += len(samples)
            if rank == distributed.rank():
                dealt.append(
                    Job(request.key, request.prompt_ids, samples, request.sampling, request.seed, request.priority)
                )
        self._batch.submit(dealt)


@dataclass(slots=True)
class _Open:
    """A request whose group is not complete."""

    samples: range
    """Numbers of the samples."""
    in_flight: list[int]
    """Number of samples that each rank was dealt and has not finished."""
    rollouts: dict[int, Rollout] = field(default_factory=dict)
    """Finished samples by their number."""


def check_deterministic(plan: EnginePlan, shape: Architecture) -> None:
    """Raise UserError where the engine cannot be deterministic: for this model, precision or machine."""
    asks = "rollout.deterministic=true with rollout.engine=local"
    if shape.delta_net:
        raise UserError(f"{asks} is for models whose layers all have attention, and this one has gated delta nets")
    if shape.experts:
        raise UserError(f"{asks} is for dense models: which tokens an expert computes together depends on all others")
    if plan.dtype != torch.float32:
        raise UserError(f"{asks} computes in fp32: set policy.dtype=fp32 (`fastsvs eval`: dtype=fp32)")
    if plan.here and distributed.device().type != "cpu":
        raise UserError(f"{asks} is for CPUs, and this process has a GPU: use servers there (rollout.engine=vllm)")
    if plan.here:
        check_machine(shape)


def check_vocabulary(eos_token_ids: Sequence[int], vocabulary: int) -> None:
    """Raise UserError for end-of-sequence ids outside a vocabulary of `vocabulary` tokens."""
    unknown = [token for token in eos_token_ids if not 0 <= token < vocabulary]
    if unknown:
        raise UserError(
            f"end-of-sequence ids {unknown} lie outside the model's vocabulary of {vocabulary}: "
            "does the tokenizer belong to the model?"
        )
