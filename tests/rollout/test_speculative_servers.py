"""Speculative decoding on a real vLLM server (CPU): the samples are the model's, and so are their log-probs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from math import sqrt
from pathlib import Path

import pytest
import torch
from standalone_servers import TINY, collect, publish, spec_of
from transformers import AutoModelForCausalLM

from fastsvs.config import SpeculativeConfig
from fastsvs.rollout import Request, Rollout, SamplingParams, VllmEngine

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm installs it"),
]
LOOKUP = (1, 3)
MENDED = "mended_speculation.Extension"
PROMPTS = [(20, 21, 22, 23, 20, 21, 22, 23, 20), (40, 41, 40, 41, 40), (60, 61, 62, 60)]
TEMPERATURE = 0.8


@pytest.fixture(scope="module", params=["ngram", "draft"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """A server of models/tiny, which guesses by n-grams, or by a draft of the same weights. On a CPU a run is refused
    (`rollout.vllm.options`) for what `mended_speculation` mends."""
    guesses = {"ngram": {"lookup_min": LOOKUP[0], "lookup_max": LOOKUP[1]}, "draft": {"draft": str(TINY)}}
    speculative = {"method": request.param, "tokens": 3, **guesses[request.param]}
    spec = spec_of(TINY, tmp_path_factory.mktemp("servers"), {"worker-extension-cls": MENDED}, max_sequences=32)
    rollout = spec.rollout.model_copy(update={"speculative": SpeculativeConfig(**speculative)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
        with closing(VllmEngine.build(replace(spec, rollout=rollout, eos_token_ids=[]))) as made:
            publish(made, 1)
            yield made


def test_log_probs_and_frequencies_are_the_models(engine: VllmEngine) -> None:
    """Tokens that a wrong rejection rule would favour or shun are those that were guessed; n-grams and the draft guess
    what has stood in the sequence already, or what is likely. Both are as frequent as the model says."""
    limits = SamplingParams(temperature=TEMPERATURE, max_tokens=24)
    engine.metrics()
    engine.submit([Request(str(i), prompt, 96, limits, seed=1000 * i) for i, prompt in enumerate(PROMPTS)])
    groups = collect(engine)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager").eval()
    excess = {"seen": [0.0, 0.0], "likeliest": [0.0, 0.0]}
    for key, rollouts in groups.items():
        for rollout in rollouts:
            probabilities = law(model, PROMPTS[int(key)], rollout)
            ids = torch.tensor(rollout.response_ids)
            expected = probabilities.gather(1, ids[:, None]).squeeze(1).log()
            torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-4, rtol=0)
            count(excess["seen"], ids, probabilities, seen(PROMPTS[int(key)], ids, probabilities.shape[1]))
            likeliest = torch.nn.functional.one_hot(probabilities.argmax(1), probabilities.shape[1]).bool()
            count(excess["likeliest"], ids, probabilities, likeliest)
    for difference, variance in excess.values():
        assert abs(difference) < 4 * sqrt(variance)
    metrics = engine.metrics()
    assert 0 < metrics["rollout/accepted_tokens"] < metrics["rollout/drafted_tokens"]
    share = metrics["rollout/accepted_tokens"] / metrics["rollout/drafted_tokens"]
    assert metrics["rollout/accepted_share"] == pytest.approx(share)


def law(model: torch.nn.Module, prompt: tuple[int, ...], rollout: Rollout) -> torch.Tensor:
    """Return the model's distribution of each response token, [tokens, vocabulary]."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *rollout.response_ids]])).logits[0, len(prompt) - 1 : -1]
    return (logits.float() / TEMPERATURE).softmax(-1)


def seen(prompt: tuple[int, ...], ids: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return which tokens have stood before each response token, [tokens, vocabulary] bool."""
    before = torch.zeros(len(ids), vocabulary, dtype=torch.bool)
    before[:, list(prompt)] = True
    for place, token in enumerate(ids.tolist()):
        before[place + 1 :, token] = True
    return before


def count(excess: list[float], ids: torch.Tensor, probabilities: torch.Tensor, event: torch.Tensor) -> None:
    """Add how much oftener than expected the `event` [tokens, vocabulary] came, and the variance of that number."""
    expected = (probabilities * event).sum(1)
    came = event.gather(1, ids[:, None]).squeeze(1).float()
    excess[0] += float((came - expected).sum())
    excess[1] += float((expected * (1 - expected)).sum())
