"""`python -m bench.generation --out bench/results`: the local engine beside transformers' generate, in fp32 and bf16.

Both decode the same 64 prompts of SmolLM2-135M (`make smollm2`) at once, sampled at temperature 1, to the same number
of tokens: no sequence ends before. Providers take turns, and the fastest round of each counts, because other work on
the machine only makes rounds slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from bench.report import Row, introduce, publish
from bench.usage import parser_of
from fastsvs.data import load_tokenizer, tiny
from fastsvs.rollout import LocalEngine, Request, SamplingParams, drain

SEQUENCES = 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Prompts = list[tuple[int, ...]]


def main() -> None:
    parser = parser_of("generation", __doc__)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"), help="Hugging Face folder")
    parser.add_argument("--tokens", type=int, default=48, help="of each response (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of each provider (%(default)s)")
    options = parser.parse_args()
    introduce("generation", needs_gpu=False)
    publish("generation", list(measure(options.model, options.tokens, options.rounds)), options.out)


def measure(folder: Path, tokens: int, rounds: int) -> Iterator[Row]:
    """Yield the rates of both providers in both dtypes, and their ratio."""
    tokenizer = load_tokenizer(str(folder))
    prompts = [tuple(tokenizer(problem.question)["input_ids"]) for problem in tiny.problems("tiny:heldout", SEQUENCES)]
    for name, dtype in DTYPES.items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        providers = {"fastsvs": of_engine(model, dtype, prompts), "transformers": of_generate(model, prompts)}
        for decode in providers.values():
            decode(4)  # the first call allocates
        seconds: dict[str, list[float]] = {provider: [] for provider in providers}
        for _ in range(rounds):
            for provider, decode in providers.items():
                began = perf_counter()
                decode(tokens)
                seconds[provider].append(perf_counter() - began)
        rates = {provider: SEQUENCES * tokens / min(each) for provider, each in seconds.items()}
        for provider, rate in rates.items():
            yield Row(name, provider, "response tokens per second", rate, "tokens/s")
        yield Row(name, "fastsvs", "ratio to transformers", rates["fastsvs"] / rates["transformers"], "")


def of_engine(model: PreTrainedModel, dtype: torch.dtype, prompts: Prompts) -> Callable[[int], None]:
    """Return a function that decodes so many tokens of each prompt with the local engine."""
    engine = LocalEngine(
        model.config, dtype=dtype, device=torch.device("cpu"), eos_token_ids=[], max_sequences=SEQUENCES
    )
    engine.load_weights([(name, tensor.detach()) for name, tensor in model.named_parameters()], 0)

    def decode(tokens: int) -> None:
        params = SamplingParams(max_tokens=tokens)
        engine.submit([Request(f"{i}", prompt, 1, params, i) for i, prompt in enumerate(prompts)])
        lengths = {len(rollout.response_ids) for _, rollouts in drain(engine) for rollout in rollouts}
        if lengths != {tokens}:
            raise RuntimeError(f"responses of {lengths} tokens instead of {tokens}")

    return decode


def of_generate(model: PreTrainedModel, prompts: Prompts) -> Callable[[int], None]:
    """Return a function that decodes so many tokens of each prompt with transformers, padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def decode(tokens: int) -> None:
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                pad_token_id=0,
            )
        if found.shape[1] != width + tokens:
            raise RuntimeError(f"responses of {found.shape[1] - width} tokens instead of {tokens}")

    return decode


if __name__ == "__main__":
    main()
