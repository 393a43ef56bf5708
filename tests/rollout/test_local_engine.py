"""The in-process engine against transformers, against the true distribution, and against itself in other company."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from stored_names import stored
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

from fastsvs import distributed
from fastsvs.errors import UserError
from fastsvs.rollout import ENGINES, LocalEngine, Request, Rollout, SamplingParams, drain
from fastsvs.rollout.local.sampling import Truncation, sample, truncate, uniforms

SIZES = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": 3,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
NO_FFN = {name: size for name, size in SIZES.items() if name != "intermediate_size"}
QWEN_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
HYBRID = {
    "initializer_range": 0.1,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
}
CONFIGS = {
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2-untied": Qwen2Config(**SIZES, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
    "llama3": LlamaConfig(**SIZES, tie_word_embeddings=False, rope_parameters=LLAMA3_ROPE),
    "qwen3-moe": Qwen3MoeConfig(**SIZES | QWEN_EXPERTS, head_dim=16, norm_topk_prob=True),
    "qwen3-moe-sparse": Qwen3MoeConfig(**SIZES | QWEN_EXPERTS, head_dim=16, norm_topk_prob=True, mlp_only_layers=[0]),
    "qwen2-moe": Qwen2MoeConfig(**SIZES | QWEN_EXPERTS, shared_expert_intermediate_size=40),
    "qwen3.5": Qwen3_5TextConfig(**SIZES | HYBRID, tie_word_embeddings=True),
    "qwen3.5-moe": Qwen3_5MoeTextConfig(**NO_FFN | HYBRID | QWEN_EXPERTS, shared_expert_intermediate_size=40),
    "qwen3-next": Qwen3NextConfig(**SIZES | HYBRID | QWEN_EXPERTS, shared_expert_intermediate_size=40),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False),
}
EOS = 3


def model_of(name: str, seed: int = 0) -> PreTrainedModel:
    """A model in which every bias and every norm matters, and in which delta nets remember."""
    torch.manual_seed(seed)
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_config(CONFIGS[name], **plain).float().eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
        if parameter_name.endswith("A_log"):
            parameter.data -= 5.0
    return model


def engine_of(model: PreTrainedModel, max_sequences: int = 16, version: int = 0) -> LocalEngine:
    engine = LocalEngine(
        model.config,
        dtype=torch.float32,
        device=torch.device("cpu"),
        eos_token_ids=[EOS],
        max_sequences=max_sequences,
    )
    engine.load_weights(hf_weights(model), version)
    return engine


def hf_weights(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    return [(n, t.detach()) for n, t in stored(dict(model.named_parameters()), model.config.model_type).items()]


def request(key: str, prompt: Sequence[int], samples: int = 1, seed: int = 0, **sampling) -> Request:
    return Request(key, tuple(prompt), samples, SamplingParams(**{"max_tokens": 24, **sampling}), seed)


def answer(engine: LocalEngine, requests: Sequence[Request]) -> dict[str, list[Rollout]]:
    engine.submit(requests)
    return dict(drain(engine))


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 96, (5 + 3 * i % 23,), generator=generator).tolist() for i in range(count)]


def long_prompts() -> list[list[int]]:
    """Prompts that delta nets read in several chunks."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, 96, (length,), generator=generator).tolist() for length in (64, 100)]


@pytest.mark.parametrize("name", CONFIGS)
def test_logprobs_are_those_of_transformers(name: str) -> None:
    """Teacher-forced over whole sampled sequences, at a temperature."""
    model = model_of(name)
    read = enumerate([*prompts(8), *long_prompts()])
    requests = [request(f"r{i}", prompt, samples=3, temperature=0.7) for i, prompt in read]
    answers = answer(engine_of(model), requests)
    for asked in requests:
        for rollout in answers[asked.key]:
            ids = torch.tensor([[*asked.prompt_ids, *rollout.response_ids]])
            with torch.no_grad():
                logits = model(ids).logits[0, len(asked.prompt_ids) - 1 : -1].float() / 0.7
            expected = logits.log_softmax(-1).gather(1, ids[0, len(asked.prompt_ids) :, None]).squeeze(1)
            torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 1e-4])
@pytest.mark.parametrize("name", CONFIGS)
def test_cold_sampling_is_the_greedy_search_of_transformers(name: str, temperature: float) -> None:
    model = model_of(name)
    for prompt in prompts(3, seed=1):
        ids = torch.tensor([prompt])
        greedy = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
        )[0, len(prompt) :].tolist()
        [rollout] = answer(engine_of(model), [request("r", prompt, temperature=temperature)])["r"]
        assert list(rollout.response_ids) == greedy


def test_greedy_and_sampled_requests_share_a_batch() -> None:
    engine = engine_of(model_of("qwen2"))
    [prompt] = prompts(1)
    alone = answer(engine, [request("g", prompt, samples=1, temperature=0.0)])["g"]
    asked = [request("g", prompt, samples=3, temperature=0.0), request("s", prompt, samples=3)]
    both = answer(engine, asked)
    assert [rollout.response_ids for rollout in both["g"]] == [alone[0].response_ids] * 3
    assert {logprob for rollout in both["g"] for logprob in rollout.logprobs} == {0.0}
    assert len({rollout.response_ids for rollout in both["s"]}) == 3


def test_a_request_for_later_samples_goes_on_where_another_ended() -> None:
    engine = engine_of(model_of("qwen2"), max_sequences=5)
    [prompt] = prompts(1)
    whole = answer(engine, [request("r", prompt, samples=7, seed=3)])["r"]
    assert len({rollout.response_ids for rollout in whole}) > 4
    for first in (1, 4, 6):
        asked = request("r", prompt, samples=7, seed=3)
        begun = answer(engine, [replace(asked, samples=first)])["r"]
        rest = answer(engine, [replace(asked, samples=7 - first, first_sample=first)])["r"]
        assert [rollout.response_ids for rollout in begun + rest] == [rollout.response_ids for rollout in whole]


def test_samples_follow_the_model_distribution() -> None:
    """Chi-square of the first token over 4000 samples, at the 99.9% quantile."""
    model = model_of("qwen2")
    [prompt] = prompts(1)
    rollouts = answer(engine_of(model, 512), [request("r", prompt, samples=4000, max_tokens=1)])["r"]
    with torch.no_grad():
        expected = 4000 * model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    counts = Counter(rollout.response_ids[0] for rollout in rollouts)
    observed = torch.tensor([float(counts[token]) for token in range(96)])
    common = expected >= 5
    bins = [(observed[common], expected[common]), (observed[~common].sum()[None], expected[~common].sum()[None])]
    statistic = sum(float(((o - e) ** 2 / e.clamp(min=1e-9)).sum()) for o, e in bins)
    degrees = int(common.sum())
    assert statistic < degrees + 3.1 * (2 * degrees) ** 0.5 + 6


@pytest.mark.parametrize("name", ["qwen3", "qwen3.5"])
def test_a_sample_depends_on_its_seed_and_not_on_its_company(name: str) -> None:
    """Its company leaves used slots behind, and moves sequences between slots."""
    model = model_of(name)
    [mine, *others] = prompts(20, seed=2)
    alone = answer(engine_of(model), [request("mine", mine, samples=4, seed=7)])["mine"]
    crowd = [request(f"r{i}", prompt, samples=3, seed=i) for i, prompt in enumerate(others)]
    among = answer(engine_of(model, max_sequences=9), [*crowd, request("mine", mine, samples=4, seed=7)])["mine"]
    assert [r.response_ids for r in alone] == [r.response_ids for r in among]
    assert len({r.response_ids for r in alone}) == 4
    other_seed = answer(engine_of(model), [request("mine", mine, samples=4, seed=8)])["mine"]
    assert [r.response_ids for r in alone] != [r.response_ids for r in other_seed]


def test_the_same_requests_give_the_same_bits() -> None:
    model = model_of("llama3")
    requests = [request(f"r{i}", prompt, samples=3, seed=i) for i, prompt in enumerate(prompts(12))]
    assert answer(engine_of(model), requests) == answer(engine_of(model), requests)


def test_responses_end_at_eos_or_at_the_limit() -> None:
    model = model_of("qwen2")
    for rollouts in answer(
        engine_of(model), [request(f"r{i}", p, samples=8) for i, p in enumerate(prompts(6))]
    ).values():
        for rollout in rollouts:
            assert EOS not in rollout.response_ids[:-1]
            stopped = rollout.response_ids[-1] == EOS
            assert rollout.finish_reason == ("stop" if stopped else "length")
            assert stopped or len(rollout.response_ids) == 24
            assert len(rollout.logprobs) == len(rollout.response_ids)


def test_what_is_submitted_while_results_are_read_is_served_too() -> None:
    engine = engine_of(model_of("qwen2"))
    engine.submit([request("first", prompts(1)[0])])
    seen = []
    for key, _ in drain(engine):
        seen.append(key)
        if key == "first":
            engine.submit([request("second", prompts(1)[0])])
    assert seen == ["first", "second"]


def test_groups_that_finish_together_come_together() -> None:
    engine = engine_of(model_of("qwen2"))
    engine.submit([request(f"r{i}", prompt, max_tokens=8) for i, prompt in enumerate(prompts(5))])
    assert engine.pending() == 5
    assert {key for key, _ in engine.poll(1.0)} == {f"r{i}" for i in range(5)}
    assert engine.pending() == 0


def test_poll_without_patience_decodes_a_little_and_comes_back() -> None:
    engine = engine_of(model_of("qwen2", seed=5))
    asked = request("r", prompts(1)[0], samples=4, max_tokens=100)
    engine.submit([asked])
    turns = [engine.poll(0.0)]
    while engine.pending():
        turns.append(engine.poll(0.0))
    assert len(turns) > 1
    assert turns[:-1] == [[]] * (len(turns) - 1)
    assert dict(turns[-1]) == answer(engine, [asked])


@pytest.mark.parametrize("rounds", [0, 1])
@pytest.mark.parametrize("name", ["qwen2", "qwen3.5"])
def test_aborted_requests_leave_the_others_as_they_are(name: str, rounds: int) -> None:
    """Waiting ones and running ones alike; their keys are free again."""
    model = model_of(name, seed=5)
    engine = engine_of(model, max_sequences=8)
    asked = [request(f"r{i}", prompt, samples=3, seed=i, max_tokens=60) for i, prompt in enumerate(prompts(6))]
    engine.submit(asked)
    finished = dict(group for _ in range(rounds) for group in engine.poll(0.0))
    gone = {"r0", "r2", "r5"} - finished.keys()
    engine.abort([*gone, "never submitted"])
    assert engine.pending() == 6 - len(finished) - len(gone)
    finished |= dict(drain(engine))
    assert finished.keys() == {request.key for request in asked} - gone
    alone = answer(engine_of(model), asked)
    for key, rollouts in finished.items():
        assert [r.response_ids for r in rollouts] == [r.response_ids for r in alone[key]]
    again = answer(engine, asked)
    assert {key: [r.response_ids for r in group] for key, group in again.items()} == {
        key: [r.response_ids for r in group] for key, group in alone.items()
    }


def test_new_weights_change_answers_and_version() -> None:
    engine = engine_of(model_of("qwen2", seed=0), version=4)
    asked = request("r", prompts(1)[0], samples=2)
    before = answer(engine, [asked])["r"]
    engine.load_weights(hf_weights(model_of("qwen2", seed=1)), 5)
    after = answer(engine, [asked])["r"]
    assert {r.weight_version for r in before} == {4}
    assert {r.weight_version for r in after} == {5}
    assert before[0].response_ids != after[0].response_ids


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request("r", [5] * 110), "max_position_embeddings=128"),
        (request("r", []), "the prompt is empty"),
        (request("r", [500]), "outside the model's vocabulary"),
        (request("r", [5], temperature=-0.5), "temperature=-0.5 must be at least 0"),
        (request("r", [5], samples=0), "samples=0"),
    ],
)
def test_impossible_requests_are_refused_and_nothing_is_queued(asked: Request, message: str) -> None:
    engine = engine_of(model_of("qwen2"))
    with pytest.raises(UserError, match=message):
        engine.submit([request("fine", [5]), asked])
    assert engine.pending() == 0
    assert engine.poll(1.0) == []


def test_wrong_weights_are_refused() -> None:
    model = model_of("qwen2")
    weights = hf_weights(model)
    for wrong, message in (
        (weights[:-1], "missing|not given|lack"),
        ([*weights, ("model.extra", torch.zeros(1))], "model.extra"),
        ([(weights[0][0], torch.zeros(3, 3)), *weights[1:]], "shape|expected"),
    ):
        with pytest.raises(UserError, match=message):
            engine_of(model).load_weights(wrong, 1)


def test_an_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="local"):
        ENGINES.get("locall")


@hypothesis_settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.05, 1.0))
def test_truncation_keeps_the_fewest_likeliest_tokens(seed: int, top_k: int, top_p: float) -> None:
    probabilities = torch.rand(1, 12, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    kept = truncate(probabilities, Truncation(torch.tensor([top_k]), torch.tensor([top_p])))[0]
    order = probabilities[0].argsort(descending=True)[:top_k]
    mass = probabilities[0][order] / probabilities[0][order].sum()
    count = int((mass.cumsum(0) - mass < top_p - 1e-6).sum())
    support = set(kept.nonzero().flatten().tolist())
    assert abs(len(support) - count) <= 1  # a cumulative mass that meets top_p to rounding may fall either way
    assert support <= set(order.tolist())
    assert float(kept.sum()) == pytest.approx(1.0, abs=1e-5)


def test_uniforms_are_uniform_and_stateless() -> None:
    seeds = torch.arange(20_000, dtype=torch.int64) * 7_919
    values = uniforms(seeds, torch.zeros_like(seeds))
    assert values.min() >= 0
    assert values.max() < 1
    assert float(values.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(values.var()) == pytest.approx(1 / 12, abs=0.003)
    assert torch.equal(values[5:6], uniforms(seeds[5:6], torch.zeros(1, dtype=torch.int64)))


def test_sampling_never_picks_what_has_no_probability() -> None:
    logits = torch.full((1000, 4), -torch.inf)
    logits[:, 2] = 0.0
    ids, logprobs = sample(logits, torch.ones(1000), torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64), None)
    assert set(ids.tolist()) == {2}
    assert float(logprobs.abs().max()) == 0.0


def _on_rank(rank: int, world: int, file: str, results: mp.SimpleQueue) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    requests = [request(f"r{i}", prompt, samples=3, seed=i) for i, prompt in enumerate(prompts(9))]
    results.put((rank, answer(engine_of(model_of("qwen2")), requests)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_ranks_see_what_one_sees(tmp_path) -> None:
    assert distributed.world_size() == 1
    context = mp.get_context("forkserver")
    results = context.SimpleQueue()
    processes = [context.Process(target=_on_rank, args=(rank, 2, str(tmp_path / "init"), results)) for rank in (0, 1)]
    for process in processes:
        process.start()
    seen = dict(results.get() for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    requests = [request(f"r{i}", prompt, samples=3, seed=i) for i, prompt in enumerate(prompts(9))]
    alone = answer(engine_of(model_of("qwen2")), requests)
    assert seen[0] == seen[1]
    assert {key: [r.response_ids for r in group] for key, group in seen[0].items()} == {
        key: [r.response_ids for r in group] for key, group in alone.items()
    }
