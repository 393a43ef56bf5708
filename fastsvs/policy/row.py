"""A micro-batch as one packed row: samples of a batch, one after another, without padding between them. A prompt that
several of them share stands in the row once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from fastsvs.algorithms import Batch
from fastsvs.policy.bundles import Bundle, Sizes
from fastsvs.policy.context import Gather
from fastsvs.policy.expert_load import Routings
from fastsvs.policy.linear_attention import LinearSequences
from fastsvs.policy.mixture import Routing
from fastsvs.policy.modules import PackedSequences
from fastsvs.policy.shared_attention import SharedPrompts


@dataclass(frozen=True, slots=True)
class ResponseTokens:
    """Response tokens of a row."""

    places: Tensor
    """Place of each token in the batch's flat tensors, [response_tokens] int64, on the CPU."""
    sequence: Tensor
    """Index in the row's samples of each token's sample, [response_tokens] int64, on the policy's device."""
    counts: Sequence[int]
    """Number of the tokens of each of the row's samples."""

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, slots=True)
class Row:
    """This rank's tokens of one packed row: all of them without context parallelism. The tensors are on the policy's
    device."""

    samples: list[int]
    """Indices of the samples in the batch, in row order."""
    tokens: Tensor
    """Token ids, [tokens] int64: shared prompts, the responses to them, prompt and response of each other sample, then
    padding."""
    sequences: PackedSequences
    predictors: Tensor
    """Place in `tokens` of the token before each response token, [response_tokens] int64. The rank that has it has the
    response token too."""
    targets: Tensor
    """Ids of the response tokens, [response_tokens] int64."""
    own: ResponseTokens
    """Response tokens of this rank."""
    whole: ResponseTokens
    """Response tokens of the whole row."""
    gather: Gather
    """Gathering of what all ranks compute of their response tokens."""


class Packer:
    """Packs samples of a batch into rows. What all rows need of the whole batch is computed once."""

    def __init__(
        self,
        batch: Batch,
        sizes: Sizes,
        rotary: Tensor,
        multiple: int,
        routings: Routings | None = None,
        *,
        rank: int = 0,
        ranks: int = 1,
        keep_attention: bool = False,
        linear: bool = False,
    ) -> None:
        """Pack for `rank` of `ranks` context-parallel ranks, which share out each row, and pad each rank's tokens to a
        multiple of `multiple`. `rotary` [2, positions, head_dim] lies on the device that the rows go to. `routings`
        collects their routing to experts. For `keep_attention` see `policy.recompute`. `linear` tells of layers with
        linear attention."""
        self._routings = routings
        self._batch, self._sizes, self._rotary = batch, sizes, rotary
        self._ranks, self._rank = ranks, rank
        self._multiple, self._keep, self._linear = multiple * self._ranks, keep_attention, linear
        self._places = np.cumsum(sizes.responses) - sizes.responses

    def pack(self, samples: Sequence[int]) -> Row:
        """Return the row of the given samples. Prompts that several of them share come first, then the responses to
        each, then the other samples whole; each of these in order of length (see `PackedSequences.lengths`)."""
        shared, alone = self._by_length(samples)
        order = np.array([*chain.from_iterable(shared), *alone], dtype=np.int64)
        heads = [bundle[0] for bundle in shared]
        prompts, responses = self._sizes.prompts[order], self._sizes.responses[order]
        # Prompt tokens in each sample's own sequence, and those that lie in a sequence before it.
        before = np.where(np.arange(len(order)) < len(order) - len(alone), prompts, 0)
        own = prompts - before
        lengths = np.concatenate([self._sizes.prompts[heads], own + responses])
        padding = -lengths.sum() % self._multiple if len(order) else self._multiple
        if padding:
            lengths = np.append(lengths, padding)
        starts = np.cumsum(lengths) - lengths
        positions = np.zeros_like(lengths)
        positions[len(heads) : len(heads) + len(order)] = before
        predictors = _ranges(starts[len(heads) : len(heads) + len(order)] + own - 1, responses)
        firsts = np.cumsum(responses) - responses
        sizes = [len(bundle) for bundle in shared]
        predictors[firsts[: sum(sizes)]] = np.repeat(np.cumsum(self._sizes.prompts[heads]) - 1, sizes)
        tokens = np.concatenate([*self._tokens(shared, alone), np.zeros(padding, dtype=np.int64)])
        answers = np.concatenate([np.zeros(0, dtype=np.int64), *(self._batch.response_ids[i] for i in order)])
        places, sequence = _ranges(self._places[order], responses), np.repeat(np.arange(len(order)), responses)
        # Ranks of context parallelism have equal parts of the row, and the response tokens that follow on their tokens.
        count = len(tokens) // self._ranks
        part = slice(self._rank * count, (self._rank + 1) * count)
        owners = predictors // count
        own = np.flatnonzero(owners == self._rank)
        everything = self._response_tokens(places, sequence, len(order))
        return Row(
            samples=order.tolist(),
            tokens=self._place(tokens[part]),
            sequences=PackedSequences(
                lengths=lengths.tolist(),
                bounds=self._place(_bounds(lengths)),
                rotary=self._rotary.index_select(1, self._place(_ranges(positions, lengths)[part])),
                shared=self._shared(shared) if shared else None,
                routing=self._routing(shared, alone, len(tokens) - int(padding), part),
                linear=LinearSequences.of(lengths.tolist(), sizes, self._rotary.device) if self._linear else None,
                kept={} if self._keep else None,
            ),
            predictors=self._place(predictors[own] - part.start),
            targets=self._place(answers[own]),
            own=everything if self._ranks == 1 else self._response_tokens(places[own], sequence[own], len(order)),
            whole=everything,
            gather=Gather.of(owners, self._ranks, self._rotary.device),
        )

    def _by_length(self, samples: Sequence[int]) -> tuple[list[Bundle], Bundle]:
        """Return the bundles of several samples in order of their prompts' lengths, their samples in order of the
        responses', and the other samples in order of the whole lengths."""
        prompts, responses = self._sizes.prompts, self._sizes.responses
        bundles = self._sizes.bundles(sorted(samples, key=lambda i: (responses[i], i)))
        shared = [bundle for bundle in bundles if len(bundle) > 1]
        alone = [bundle[0] for bundle in bundles if len(bundle) == 1]
        shared.sort(key=lambda bundle: (prompts[bundle[0]], min(bundle)))
        return shared, sorted(alone, key=lambda i: (prompts[i] + responses[i], i))

    def _tokens(self, shared: Sequence[Bundle], alone: Bundle) -> Iterator[np.ndarray]:
        prompt_ids, response_ids = self._batch.prompt_ids, self._batch.response_ids
        yield from (prompt_ids[bundle[0]] for bundle in shared)
        yield from (response_ids[i] for bundle in shared for i in bundle)
        yield from chain.from_iterable((prompt_ids[i], response_ids[i]) for i in alone)

    def _response_tokens(self, places: np.ndarray, sequence: np.ndarray, samples: int) -> ResponseTokens:
        counts = np.bincount(sequence, minlength=samples).tolist()
        return ResponseTokens(torch.from_numpy(places), self._place(sequence), counts)

    def _routing(self, shared: Sequence[Bundle], alone: Bundle, tokens: int, part: slice) -> Routing | None:
        """Return the routing of this rank's part of a row of `tokens` tokens, which padding follows. Experts are given
        where the batch has those of the rollout: for all but the padding, and the last token of each response, whose
        output nothing reads."""
        if self._routings is None:
            return None
        own, experts = min(max(tokens - part.start, 0), part.stop - part.start), self._batch.experts
        if experts is None or not (shared or alone):
            return self._routings.of_row(own, tokens)
        replay = np.full((self._ranks * (part.stop - part.start), *experts[0].shape[1:]), -1, dtype=np.int16)
        start = 0
        for first, last, sample in self._pieces(shared, alone):
            known = experts[sample][first:last]
            replay[start : start + len(known)] = known
            start += last - first
        return self._routings.of_row(own, tokens, torch.from_numpy(replay[part]))

    def _pieces(self, shared: Sequence[Bundle], alone: Bundle) -> Iterator[tuple[int, int, int]]:
        """Yield the row's pieces in order, as in `_tokens`: positions [first, last) of a sample's prompt and
        response."""
        prompts, ends = self._sizes.prompts, self._sizes.prompts + self._sizes.responses
        yield from ((0, int(prompts[bundle[0]]), bundle[0]) for bundle in shared)
        yield from ((int(prompts[i]), int(ends[i]), i) for bundle in shared for i in bundle)
        yield from ((0, int(ends[i]), i) for i in alone)

    def _shared(self, bundles: Sequence[Bundle]) -> SharedPrompts:
        prompts = self._sizes.prompts[[bundle[0] for bundle in bundles]]
        responses = np.array([self._sizes.responses[bundle].sum() for bundle in bundles])
        return SharedPrompts(
            prompts=prompts.tolist(),
            responses=responses.tolist(),
            prompt_bounds=self._place(_bounds(prompts)),
            response_bounds=self._place(_bounds(responses)),
        )

    def _place(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._rotary.device)


def _bounds(lengths: np.ndarray) -> np.ndarray:
    """Return the start of each run of these lengths, then the end of the last, [runs + 1] int32."""
    return np.append(0, np.cumsum(lengths)).astype(np.int32)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the numbers start, start + 1, ... of each pair of start and length, one pair after another; int64."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
