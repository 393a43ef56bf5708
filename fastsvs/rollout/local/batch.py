"""Continuous batching in slots 0..active-1: a finished sequence leaves at once, and waiting ones take free slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastsvs.invariant import KEYS
from fastsvs.kernels.invariant import batch_invariant
from fastsvs.rollout.engine import Rollout, SamplingParams
from fastsvs.rollout.local.cache import BLOCK, Cache, blocks
from fastsvs.rollout.local.decoder import Decoder
from fastsvs.rollout.local.invariant import InvariantDecoder, exact_logprobs
from fastsvs.rollout.local.routes import RouteBook
from fastsvs.rollout.local.sampling import sample, uniforms
from fastsvs.rollout.local.slots import Slots
from fastsvs.seeding import derive_seed

PREFILL_TOKENS = 16384
"""Number of prompt tokens, padding included, that are read at a time."""
ADMISSION_SHARE = 8
"""Divisor of the slots: waiting sequences come in when one slot in this many is free, which makes prefills fewer and
larger."""

Finished = tuple[str, int, Rollout]
"""Finished sample: (request key, sample number, its response)."""


@dataclass(frozen=True, slots=True)
class Job:
    """Some of the samples of a request."""

    key: str
    prompt_ids: tuple[int, ...]
    samples: range
    sampling: SamplingParams
    seed: int
    priority: int

    @property
    def length(self) -> int:
        """Return the number of tokens in its longest possible sequence."""
        return len(self.prompt_ids) + self.sampling.max_tokens

    def sample_seeds(self) -> list[int]:
        return [derive_seed(self.seed, sample) for sample in self.samples]


class ContinuousBatch:
    def __init__(
        self, decoder: Decoder, eos_token_ids: Sequence[int], max_sequences: int, *, tells_experts: bool = False
    ) -> None:
        embedding = decoder.weights.embedding
        self._decoder = decoder
        self._max_sequences = max_sequences
        self._eos = frozenset(eos_token_ids)
        self._eos_ids = torch.tensor(sorted(self._eos), dtype=torch.int64, device=embedding.device)
        self._exact = isinstance(decoder, InvariantDecoder)
        multiple = KEYS if self._exact else BLOCK
        self._cache = Cache(decoder.shape, embedding.dtype, embedding.device, multiple)
        self._slots = Slots(blocks(max_sequences), decoder.shape.vocabulary, embedding.device)
        self._routes = RouteBook(decoder.shape, embedding.device) if tells_experts else None
        self._waiting: deque[Job] = deque()
        self._owners: list[tuple[Job, int]] = []
        """Job and sample number of each slot in use."""

    def submit(self, jobs: Iterable[Job]) -> None:
        self._waiting = deque(sorted([*self._waiting, *jobs], key=lambda job: job.priority))

    @torch.inference_mode()
    def drop(self, keys: Collection[str]) -> None:
        """Forget the jobs of these requests, waiting or in a slot."""
        self._waiting = deque(job for job in self._waiting if job.key not in keys)
        rows = [row for row, (job, _) in enumerate(self._owners) if job.key in keys]
        if rows:
            self._vacate(rows)

    @torch.inference_mode()
    def advance(self, steps: int, version: int) -> list[Finished]:
        """Decode up to `steps` tokens per sequence, let waiting ones in, and return what finished, with the weights'
        `version`.

        Raises FloatingPointError when the model's logits are not finite.
        """
        with batch_invariant(self._exact):
            return self._advance(steps, version)

    def _advance(self, steps: int, version: int) -> list[Finished]:
        finished: list[Finished] = []
        for _ in range(steps):
            if self._has_room():
                self._admit()
                finished += self._retire(version)
            elif not self._owners:
                break
            if self._owners:
                self._decode()
                finished += self._retire(version)
        return finished

    def _has_room(self) -> bool:
        """Check that the next job fits as a whole, and that enough slots are free to make a prefill worthwhile."""
        if not self._waiting:
            return False
        free = self._max_sequences - len(self._owners)
        wanted = max(len(self._waiting[0].samples), self._max_sequences // ADMISSION_SHARE)
        return free >= min(wanted, self._max_sequences)

    def _admit(self) -> None:
        jobs: list[Job] = []
        free = self._max_sequences - len(self._owners)
        while self._waiting and free and (not jobs or len(self._waiting[0].samples) <= free):
            job = self._waiting.popleft()
            if len(job.samples) > free:
                self._waiting.appendleft(replace(job, samples=job.samples[free:]))
                job = replace(job, samples=job.samples[:free])
            jobs.append(job)
            free -= len(job.samples)
        for group in _prefill_groups(jobs):
            self._prefill(group)

    def _prefill(self, jobs: Sequence[Job]) -> None:
        first, device = len(self._owners), self._eos_ids.device
        self._owners += [(job, sample) for job in jobs for sample in job.samples]
        lengths = torch.tensor([len(job.prompt_ids) for job in jobs], device=device)
        prompts = pad_sequence([torch.tensor(job.prompt_ids) for job in jobs], batch_first=True).to(device)
        owners = torch.tensor([i for i, job in enumerate(jobs) for _ in job.samples], device=device)
        self._cache.reserve(blocks(len(self._owners)), max(job.length for job in jobs))
        self._slots.reserve(max(job.sampling.max_tokens for job in jobs))
        self._slots.open(
            first,
            lengths[owners],
            [seed for job in jobs for seed in job.sample_seeds()],
            [job.sampling for job in jobs for _ in job.samples],
        )
        logits, routes = self._decoder.prefill(prompts, lengths, owners, self._cache, first)
        if self._routes:
            self._routes.reserve(blocks(len(self._owners)), max(job.length for job in jobs))
            self._routes.begin(first, routes, owners)
        self._choose(logits[owners], slice(first, len(self._owners)))

    def _decode(self) -> None:
        active = len(self._owners)
        rows = slice(blocks(active))
        slots = self._slots
        positions = slots.positions[rows]
        logits, routes = self._decoder.decode(slots.tokens[rows], positions, slots.longest(active), self._cache)
        if self._routes:
            self._routes.append(positions, routes)
        self._choose(logits[:active], slice(active))

    def _choose(self, logits: Tensor, rows: slice) -> None:
        slots = self._slots
        uniform = uniforms(slots.seeds[rows], slots.produced[rows])
        truncation, temperatures = slots.truncation(rows), slots.temperatures[rows]
        ids, logprobs = sample(logits, temperatures.float(), uniform, truncation)
        if self._exact:
            truncated = slots.truncated[rows]
            if truncation is not None:  # which rounds the others' probabilities otherwise too
                ids = torch.where(truncated, ids, sample(logits, temperatures.float(), uniform, None)[0])
            logprobs = torch.where(truncated, logprobs, exact_logprobs(logits, ids, temperatures))
        slots.append(rows, ids, logprobs)

    def _retire(self, version: int) -> list[Finished]:
        rows = self._slots.done(len(self._owners), self._eos_ids)
        if not rows:
            return []
        finished = [
            self._finish(*self._owners[row], *response, version, self._experts(row, response[0]))
            for row, response in self._responses(rows)
        ]
        self._vacate(rows)
        return finished

    def _vacate(self, rows: Sequence[int]) -> None:
        """Remove the sequences in `rows`, and close the gaps with the last ones."""
        active = len(self._owners)
        staying = active - len(rows)
        gone = set(rows)
        targets = [row for row in rows if row < staying]
        sources = [row for row in range(staying, active) if row not in gone]
        for source, target in zip(sources, targets, strict=True):
            self._owners[target] = self._owners[source]
        del self._owners[staying:]
        if sources:
            index = torch.tensor([sources, targets], device=self._eos_ids.device)
            self._cache.move(index[0], index[1], self._slots.longest(active))
            self._slots.move(index[0], index[1])
            if self._routes:
                self._routes.move(index[0], index[1])

    def _experts(self, row: int, ids: Sequence[int]) -> np.ndarray | None:
        """Return the experts of all tokens of a finished sequence but the last, which was never read."""
        job, _ = self._owners[row]
        return self._routes.read(row, len(job.prompt_ids) + len(ids) - 1) if self._routes else None

    def _responses(self, rows: list[int]) -> Iterator[tuple[int, tuple[list[int], list[float]]]]:
        return zip(rows, self._slots.responses(rows), strict=True)

    def _finish(
        self, job: Job, sample: int, ids: list[int], logprobs: list[float], version: int, experts: np.ndarray | None
    ) -> Finished:
        if not all(map(isfinite, logprobs)):
            raise FloatingPointError(
                f"the model's logits for request {job.key!r} are not finite: the weights of version {version} have "
                "diverged; lower policy.optimizer.learning_rate or go back to an earlier checkpoint"
            )
        stopped = ids[-1] in self._eos
        reason: Literal["stop", "length"] = "stop" if stopped else "length"
        return job.key, sample, Rollout(tuple(ids), tuple(logprobs), reason, version, experts=experts)


def _prefill_groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Yield the jobs in groups of similar prompt length, which need little padding. A group stays within
    PREFILL_TOKENS, unless it is one prompt that is longer itself."""
    group: list[Job] = []
    for job in sorted(jobs, key=lambda job: len(job.prompt_ids)):
        if group and (len(group) + 1) * len(job.prompt_ids) > PREFILL_TOKENS:
            yield group
            group = []
        group.append(job)
    if group:
        yield group
