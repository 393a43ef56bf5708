"""CoVo over the real policy: distances and rewards against transformers in float64, one sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_cases import save_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from fastsvs.algorithms import Batch, Context, sample_rewards
from fastsvs.algorithms.rewards.covo import answer_distances, curiosity
from fastsvs.config import AlgorithmConfig, CovoConfig, ModelConfig, PolicyConfig
from fastsvs.policy import Policy
from fastsvs.training.credit import PolicyProbe

TEMPERATURE = 0.7
LEAD = "so: "
ASKED = "How many?\n"
RESPONSES = [
    ["2+3=5\n", "5*2=10\n", "\\boxed{10}"],
    ["2+3=5\n", "5*2=11\n", "hm\n", "\\boxed{11}"],
    ["\\boxed{10}"],
    ["2+3=6\n", "\n", "6*2=12\n", "\\boxed{12}"],
    ["no idea"],
    ["2+3=5\n", "then 10.\n", "\\boxed{10}"],
]
"""By their lines, of one group; the blank line belongs to the step before it."""
STATES = [["", "2+3=5\n", "2+3=5\n5*2=10\n"], ["", "2+3=5\n", "2+3=5\n5*2=11\n", "2+3=5\n5*2=11\nhm\n"], [""]]
STATES += [["", "2+3=6\n\n", "2+3=6\n\n6*2=12\n"], [], ["", "2+3=5\n", "2+3=5\nthen 10.\n"]]
ANSWERS = ["10", "11", "12"]
OWN = ["10", "11", "10", "12", None, "10"]


def encode(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("qwen2-tied", tmp_path_factory.mktemp("covo"))


@pytest.fixture(scope="module")
def hf(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)


def probe(folder: Path, max_sequence_tokens: int = 128) -> PolicyProbe:
    config = PolicyConfig(dtype="fp32", recompute="none", tokens_per_micro_batch=256)
    policy = Policy(
        ModelConfig(path=str(folder)), config, seed=0, total_updates=0, max_sequence_tokens=max_sequence_tokens
    )
    return PolicyProbe(policy, TEMPERATURE)


def batch_of(responses: Sequence[str], groups: Sequence[int]) -> Batch:
    tokens = sum(map(len, responses))
    return Batch(
        prompt_ids=[np.array(encode(ASKED))] * len(responses),
        response_ids=[np.array(encode(response)) for response in responses],
        kinds=["original"] * len(responses),
        groups=torch.tensor(groups),
        rewards=torch.zeros(len(responses)),
        advantages=torch.zeros(tokens),
        rollout_logprobs=torch.zeros(tokens),
    )


@torch.no_grad()
def surprise(hf: PreTrainedModel, before: str, text: str) -> list[float]:
    """-log p of each token, in float64."""
    logits = hf(torch.tensor([encode(before + text)])).logits[0, len(before) - 1 : -1] / TEMPERATURE
    return [-float(row.log_softmax(-1)[token]) for row, token in zip(logits, encode(text), strict=True)]


def distance(hf: PreTrainedModel, state: str, answer: str) -> float:
    values = surprise(hf, ASKED + state + LEAD, f"\\boxed{{{answer}}}")
    return sum(values) / len(values)


def context_of(probe: PolicyProbe, **covo: object) -> Context:
    return Context(AlgorithmConfig(reward="covo", covo=CovoConfig(lead_in=LEAD, **covo)), probe, decode, encode)


def expected_scores(hf: PreTrainedModel, states: Sequence[Sequence[str]]) -> list[float]:
    """The formula of the paper, over what transformers finds."""
    vectors = []
    for place, own in enumerate(OWN):
        rows = [{answer: distance(hf, state, answer) for answer in ANSWERS} for state in states[place]]
        steady = [min(row, key=row.__getitem__) == own for row in rows]
        last = max((index for index, stays in enumerate(steady, 1) if not stays), default=0)
        size = max(len(rows), 1)
        vectors.append(sum(steady) / size * np.exp(1j * last / size))
    return [
        0.0 if own is None else abs(np.mean([v for v, other in zip(vectors, OWN, strict=True) if other == own]))
        for own in OWN
    ]


def test_distances_match_transformers_in_float64(folder: Path, hf: PreTrainedModel) -> None:
    pairs = [(state, answer) for states in STATES for state in states for answer in ANSWERS]
    rows = [(np.array(encode(ASKED + s + LEAD)).tobytes(), encode(f"\\boxed{{{a}}}")) for s, a in pairs]
    found = answer_distances(rows, probe(folder))
    for row, (state, answer) in zip(rows, pairs, strict=True):
        assert found[row] == pytest.approx(distance(hf, state, answer), abs=2e-6)


def test_rewards_match_the_formula_over_transformers(folder: Path, hf: PreTrainedModel) -> None:
    texts = ["".join(lines) for lines in RESPONSES]
    batch = batch_of([*texts, "\\boxed{7}", "7\n\\boxed{7}", "?"], [0] * 6 + [1] * 3)
    context = context_of(probe(folder))
    rewards = sample_rewards(batch, context).tolist()
    expected = expected_scores(hf, STATES)
    assert rewards[:6] == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) > 2, "else the case shows nothing"
    assert rewards[6:] == [1, 1, 0], "a single answer has no rival"
    assert context.metrics["covo_rows"] == 3 * len({state for states in STATES for state in states})
    assert context.metrics["covo_unanswered"] == 2
    assert context.metrics["covo_answers"] == 2

    threshold = sorted(expected)[-1]
    binary = sample_rewards(batch, context_of(probe(folder), threshold=threshold - 1e-6)).tolist()
    assert binary[:6] == [float(score > threshold - 1e-3) for score in expected]


def test_curiosity_is_added_to_what_answers(folder: Path, hf: PreTrainedModel) -> None:
    texts = ["".join(lines) for lines in RESPONSES]
    batch = batch_of(texts, [0] * 6)
    plain = sample_rewards(batch, context_of(probe(folder)))
    curious = sample_rewards(batch, context_of(probe(folder), curiosity=0.1))
    for place, text in enumerate(texts):
        starts = [len(state) for state in STATES[place]]
        bonus = 0.1 * curiosity([-value for value in surprise(hf, ASKED, text)], starts) if starts else 0.0
        assert float(curious[place] - plain[place]) == pytest.approx(bonus, abs=1e-6)


def test_states_that_exceed_the_policy_are_left_out_and_counted(folder: Path, hf: PreTrainedModel) -> None:
    batch = batch_of(["".join(lines) for lines in RESPONSES], [0] * 6)
    room = len(ASKED) + len("2+3=5\n") + len(LEAD) + len("\\boxed{10}")
    context = context_of(probe(folder, max_sequence_tokens=room))
    kept = [[state for state in states if len(state) <= len("2+3=5\n")] for states in STATES]
    assert sample_rewards(batch, context).tolist() == pytest.approx(expected_scores(hf, kept), abs=1e-6)
    assert context.metrics["covo_states_too_long"] == sum(map(len, STATES)) - sum(map(len, kept)) > 0


def test_an_answer_that_never_fits_is_none(folder: Path) -> None:
    long = "\\boxed{" + "x" * 60 + "}"
    batch = batch_of(["1\n\\boxed{1}", "2\n\\boxed{2}", long], [0] * 3)
    context = context_of(probe(folder, max_sequence_tokens=len(ASKED) + len(long)))
    rewards = sample_rewards(batch, context).tolist()
    assert rewards[2] == 0
    assert context.metrics["covo_answers_too_long"] == 1
    assert context.metrics["covo_states_too_long"] == 0


def test_no_samples_ask_nothing(folder: Path) -> None:
    context = context_of(probe(folder), curiosity=1.0)
    assert sample_rewards(batch_of([], []), context).shape == (0,)
