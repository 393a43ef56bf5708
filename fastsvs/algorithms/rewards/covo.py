"""CoVo: an answer earns more, the more steadily responses approach it (arXiv 2506.08745, section 3 and algorithm 1).

Before each step of a response the policy says how near every answer of the group is. Right answers tend to be the
nearest from early on (consistency) and to stay the nearest (volatility). One batch of (prompt + steps so far + lead-in,
answer) is scored per training step. No verdict is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.context import Context, Probe
from fastsvs.algorithms.rewards.registry import REWARDS
from fastsvs.verify import canonical_answer


@REWARDS.register("covo")
def covo(batch: Batch, context: Context) -> Tensor:
    """Return each sample's reward, `[samples]`: the length of the mean vector of the responses with its answer, or 0
    without an answer.

    Distances are those of the policy before the update, at the sampling temperature. In a group with a single answer
    every state has that answer nearest, so it earns 1 (0 in the released code).
    """
    config = context.config.covo
    token_text = cache(lambda token: context.decode([token]))
    samples = [_read(ids.tolist(), context, token_text) for ids in batch.response_ids]
    groups = [_Group.of(batch, members, samples, context) for members in _members(batch)]
    distances = answer_distances([row for group in groups for row in group.rows()], context.probe)
    rewards = torch.zeros(len(batch))
    features: dict[int, tuple[float, float]] = {}
    for group in groups:
        found = {sample: group.features(sample, distances) for sample in group.own}
        for sample, score in group.scores(found).items():
            rewards[sample] = score if config.threshold is None else float(score >= config.threshold)
        features |= found
    if config.curiosity and len(batch):
        rewards += config.curiosity * _bonuses(batch, samples, features, context.probe)
    _report(context, groups, features, len(batch), len(distances))
    return rewards


def consistency_and_volatility(distances: np.ndarray, own: int) -> tuple[float, float]:
    """Return consistency and volatility of `[states, answers]` distances.

    Consistency is the share of states that have no answer nearer than column `own`. Volatility is the place of the last
    state that has one (counted from 1; 0 for none) over the number of states.
    """
    deviates = distances.min(axis=1) < distances[:, own]
    last = int(np.flatnonzero(deviates)[-1]) + 1 if deviates.any() else 0
    return 1 - float(deviates.mean()), last / len(distances)


def vector_reward(features: Sequence[tuple[float, float]]) -> float:
    """Return |sum of Con (cos Vol, sin Vol)| / G over the (Con, Vol) of the G responses with one answer. It lies in
    0..1."""
    x = sum(consistency * math.cos(volatility) for consistency, volatility in features)
    y = sum(consistency * math.sin(volatility) for consistency, volatility in features)
    return math.hypot(x, y) / len(features)


def curiosity(logprobs: Sequence[float], starts: Sequence[int]) -> float:
    """Return the mean over the steps of d(s_i, s_i+1) - ln(KL(P, U) + 1), given the response's `logprobs`.

    d is the mean surprise of a step's tokens. The other term subtracts what is due to few of the tokens: P is each
    token's share of the step's surprise, and U are even shares. The released code has exp(d) for d and the third root
    of KL, and turns the mean into 0.4 when it exceeds 2.
    """
    ends = [*starts[1:], len(logprobs)]
    return fmean(_step_curiosity(-np.array(logprobs[a:b])) for a, b in zip(starts, ends, strict=True))


def step_starts(texts: Sequence[str]) -> list[int]:
    """Return the places where steps begin among tokens, given as texts: the first token, and the first one that is not
    blank after one with a line break. A token that spans a line break belongs to the line that it ends, and blank lines
    to the step before."""
    starts, written, broken = [0], False, False
    for place, text in enumerate(texts):
        if broken and text.strip():
            starts.append(place)
            broken = False
        written = written or bool(text.strip())
        broken = broken or (written and "\n" in text)
    return starts


def merge_steps(starts: Sequence[int], most: int) -> list[int]:
    """Return the starts of at most `most` steps, each merged from as many neighbouring steps as the others, or one
    more."""
    count = min(len(starts), most)
    return [starts[place * len(starts) // count] for place in range(count)]


Row = tuple[bytes, tuple[int, ...]]
"""Pair to be scored: the token ids of prompt, steps so far and lead-in (bytes of int64), and those of an answer."""


@dataclass(frozen=True, slots=True)
class _Response:
    """The answer of a response, and its steps."""

    answer: str | None
    starts: list[int]
    """Places among the response's tokens where its steps begin. A state is what precedes such a place."""


@dataclass(frozen=True, slots=True)
class _Group:
    """The responses to one prompt whose answers can be scored."""

    batch: Batch
    lead: np.ndarray
    answers: dict[str, tuple[int, ...]]
    """Token ids of each answer."""
    own: dict[int, str]
    """Answer of each sample."""
    starts: dict[int, list[int]]
    """Starts of the steps of each sample before which the answers are scored."""
    too_long: int
    """Number of states left out: with lead-in and longest answer they exceed what the policy takes."""
    answers_too_long: int
    """Number of responses whose answer does not even fit after the prompt; they count as without one."""

    @classmethod
    def of(cls, batch: Batch, members: Sequence[int], samples: Sequence[_Response], context: Context) -> _Group:
        """Return the group of the samples `members`, without answers and states that are too long for the policy."""
        lead = context.encode(context.config.covo.lead_in)
        room = context.probe.max_sequence_tokens - len(batch.prompt_ids[members[0]]) - len(lead)
        given = {sample: answer for sample in members if (answer := samples[sample].answer) is not None}
        spelled = {answer: context.encode(f"\\boxed{{{answer}}}") for answer in dict.fromkeys(given.values())}
        answers = {answer: ids for answer, ids in spelled.items() if len(ids) <= room}
        own = {sample: answer for sample, answer in given.items() if answer in answers}
        last = room - max(map(len, answers.values()), default=0)
        starts = {sample: [start for start in samples[sample].starts if start <= last] for sample in own}
        too_long = sum(len(samples[sample].starts) - len(starts[sample]) for sample in own)
        return cls(batch, np.array(lead, dtype=np.int64), answers, own, starts, too_long, len(given) - len(own))

    def rows(self) -> list[Row]:
        """Return the rows to score. There are none where there is no choice of answers."""
        if len(self.answers) < 2:
            return []
        return [row for sample in self.own for state in self._states(sample) for row in state]

    def features(self, sample: int, distances: Mapping[Row, float]) -> tuple[float, float]:
        """Return (consistency, volatility) of a sample."""
        if len(self.answers) < 2:
            return 1.0, 0.0
        matrix = np.array([[distances[row] for row in state] for state in self._states(sample)])
        return consistency_and_volatility(matrix, list(self.answers).index(self.own[sample]))

    def scores(self, features: Mapping[int, tuple[float, float]]) -> dict[int, float]:
        """Return the vector reward of each sample's answer."""
        of_answer = {
            answer: vector_reward([features[sample] for sample, own in self.own.items() if own == answer])
            for answer in self.answers
        }
        return {sample: of_answer[own] for sample, own in self.own.items()}

    def _states(self, sample: int) -> list[list[Row]]:
        """Return the rows of all answers for each state of a sample."""
        prompt, response = self.batch.prompt_ids[sample], self.batch.response_ids[sample]
        states = [np.concatenate([prompt, response[:start], self.lead]).tobytes() for start in self.starts[sample]]
        return [[(state, ids) for ids in self.answers.values()] for state in states]


def _read(ids: Sequence[int], context: Context, token_text: Callable[[int], str]) -> _Response:
    starts = step_starts([token_text(token) for token in ids])
    return _Response(canonical_answer(context.decode(ids)), merge_steps(starts, context.config.covo.states))


def _members(batch: Batch) -> list[list[int]]:
    return [(batch.groups == group).nonzero().flatten().tolist() for group in batch.groups.unique()]


def answer_distances(rows: Sequence[Row], probe: Probe) -> dict[Row, float]:
    """Return -mean log p of the answer's tokens for each row. Responses that begin alike share their rows."""
    distinct = list(dict.fromkeys(rows))
    if not distinct:
        return {}
    lengths = torch.tensor([len(answer) for _, answer in distinct])
    zeros = torch.zeros(int(lengths.sum()))
    scored = Batch(
        prompt_ids=[np.frombuffer(state, dtype=np.int64) for state, _ in distinct],
        response_ids=[np.array(answer, dtype=np.int64) for _, answer in distinct],
        kinds=["covo"] * len(distinct),
        groups=torch.arange(len(distinct)),
        rewards=torch.zeros(len(distinct)),
        advantages=zeros,
        rollout_logprobs=zeros,
    )
    pieces = probe.tokens(scored).logprobs.double().split(lengths.tolist())
    return {row: -float(piece.mean()) for row, piece in zip(distinct, pieces, strict=True)}


def _bonuses(batch: Batch, samples: Sequence[_Response], answered: Mapping[int, object], probe: Probe) -> Tensor:
    """Return the curiosity of each sample, `[samples]`, or 0 without an answer."""
    pieces = probe.tokens(batch).logprobs.split(batch.response_lengths.tolist())
    bonuses = [
        curiosity(piece.tolist(), samples[sample].starts) if sample in answered else 0.0
        for sample, piece in enumerate(pieces)
    ]
    return torch.tensor(bonuses)


def _step_curiosity(surprise: np.ndarray) -> float:
    total = surprise.sum()
    shares = surprise[surprise > 0] / total if total > 0 else np.ones(0)
    divergence = float((shares * np.log(shares * len(surprise))).sum())
    return float(surprise.mean()) - math.log1p(max(divergence, 0.0))


def _report(
    context: Context, groups: Sequence[_Group], features: Mapping[int, tuple[float, float]], samples: int, rows: int
) -> None:
    context.metrics["covo_rows"] = rows
    context.metrics["covo_unanswered"] = samples - len(features)
    context.metrics["covo_answers_too_long"] = sum(group.answers_too_long for group in groups)
    context.metrics["covo_states_too_long"] = sum(group.too_long for group in groups)
    if features:
        context.metrics["covo_answers"] = fmean(len(group.answers) for group in groups)
        context.metrics["covo_consistency"] = fmean(consistency for consistency, _ in features.values())
        context.metrics["covo_volatility"] = fmean(volatility for _, volatility in features.values())
