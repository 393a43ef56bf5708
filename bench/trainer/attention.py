"""Compare the attentions that the policy may take on one device: time, rate and error, forward and backward.

python -m bench.trainer.attention --suite h100 --out bench/results      # one GPU, about a minute
python -m bench.trainer.attention --suite smoke --out runs/smoke        # seconds on a CPU: checks the benchmark

Rates count the scores that are not masked: forward 2 products, backward 5. Errors are the largest difference to
attention in float64 over the largest value there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench import report
from bench.kernels.measure import attempt, clock
from bench.report import Row
from bench.trainer.flops import measured_matmul_rate
from bench.trainer.suites import MODELS, Case
from bench.usage import parser_of
from fastsvs.architecture import Architecture, read_architecture
from fastsvs.policy.attention import IMPLEMENTATIONS, Attention, Packing, chosen, sdpa

UNEVEN = (1, 300, 77, 646, 1024)
"""Lengths, in tokens, of the row's sequences whose results are compared with float64."""
NAMES = ("out", "dq", "dk", "dv")


@dataclass(frozen=True, slots=True)
class Suite:
    cases: tuple[Case, ...]
    models: tuple[str, ...]
    """Models whose head sizes are compared with float64."""
    dtype: torch.dtype
    repeats: int
    needs_gpu: bool
    limit_seconds: float
    """Time after which no measurement starts, in seconds."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """The packing of a row, and nothing else of it."""

    lengths: Sequence[int]
    bounds: Tensor


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs of one layer's attention, [tokens, heads or groups, head_dim] each."""

    query: Tensor
    key: Tensor
    value: Tensor
    """Values, a part of the projection's output as in a Megatron layer: its tokens are not contiguous."""
    gradient: Tensor
    """Gradient of the output."""
    packing: Packing


SUITES = {
    # Qwen3 1.7B has the heads of 0.6B.
    "h100": Suite(
        cases=tuple(
            Case(model, tokens * 1024, layout)
            for model in ("qwen3-0.6b", "qwen3-4b")
            for layout in ("single", "packed")
            for tokens in (16, 64)
        ),
        models=("qwen3-0.6b", "qwen3-4b", "smollm2-135m"),
        dtype=torch.bfloat16,
        repeats=5,
        needs_gpu=True,
        limit_seconds=120,
    ),
    "smoke": Suite(
        cases=(Case("tiny", 1024, "single"), Case("tiny", 2048, "packed")),
        models=("tiny",),
        dtype=torch.float32,
        repeats=2,
        needs_gpu=False,
        limit_seconds=30,
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("trainer.attention", __doc__, SUITES)
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="implementations to leave out")
    asked = parser.parse_args(arguments)
    suite = SUITES[asked.suite]
    report.introduce(asked.suite, suite.needs_gpu)
    report.keep(f"attention-{asked.suite}", ([row] for row in run(suite, asked.without)), asked.out)


def run(suite: Suite, without: Sequence[str]) -> Iterator[Row]:
    """Yield the errors of all implementations, then their times, case after case."""
    begun = perf_counter()
    present = {name: run for name, run in contenders() if name not in without}
    ceiling = measured_matmul_rate() if suite.needs_gpu else None
    if ceiling:
        print(f"bf16 matrix product, 8192 x 8192 x 8192, measured: {ceiling / 1e12:.0f} TFLOP/s")
        yield Row("matmul/8192", "torch", "rate", ceiling / 1e12, "TFLOP/s")
    for model in suite.models:
        shape = read_architecture(MODELS[model]())
        for dtype in dict.fromkeys((suite.dtype, torch.float32)):
            yield from errors(model, shape, dtype, present)
    for case in suite.cases:
        shape = read_architecture(MODELS[case.model]())
        print(f"\n{case.name}: {len(case.lengths())} sequences; {_choice(shape, suite.dtype)} is what the policy takes")
        for name in list(present):
            if perf_counter() - begun > suite.limit_seconds:
                print(f"  {name:<24} left out: {suite.limit_seconds:.0f} s are over")
                continue
            action = partial(times, case, shape, name, present[name], suite, ceiling)
            measured, reason = attempt(name, action)
            if measured is None:
                print(f"  {name:<24} {reason}")
            yield from measured or []


def contenders() -> Iterator[tuple[str, Attention]]:
    """Yield every implementation that is there, and print the others with the reason."""
    for name, known in IMPLEMENTATIONS.items():
        module, reason = attempt(name, partial(import_module, known.module))
        if module is None:
            print(f"{name:<24} {reason}")
        elif torch.cuda.is_available():
            yield name, known.run
    yield sdpa.__name__, sdpa
    if torch.cuda.is_available():
        yield "sdpa_of_cudnn", sdpa_of_cudnn
        yield "vllm_forward", vllm_forward


def sdpa_of_cudnn(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Run cuDNN as torch brings it along. It plans again for every length, so it is for a few long sequences only."""
    if len(packing.lengths) > 1:
        raise NotImplementedError("plans anew for every length")
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        output = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return output[0].transpose(0, 1)


def vllm_forward(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Run the FlashAttention 3 that vLLM brings along, which has no backward pass."""
    from vllm.vllm_flash_attn import flash_attn_varlen_func

    bounds, longest = packing.bounds, max(packing.lengths)
    with torch.no_grad():
        return flash_attn_varlen_func(
            query,
            key,
            value,
            cu_seqlens_q=bounds,
            cu_seqlens_k=bounds,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            causal=True,
            fa_version=3,
        )


def errors(model: str, shape: Architecture, dtype: torch.dtype, present: dict[str, Attention]) -> Iterator[Row]:
    """Yield the errors of each implementation in this dtype. In fp32 only torch's own is measured."""
    inputs = random_inputs(shape, UNEVEN, dtype)
    true = results(in_float64, _widened(inputs))
    case = f"{model}/{'fp32' if dtype == torch.float32 else 'bf16'}/error"
    print(f"\n{case}: largest difference to float64 over the largest value")
    for name, attention in present.items():
        if dtype == torch.float32 and name != sdpa.__name__:
            continue
        found, reason = attempt(name, partial(results, attention, inputs))
        if found is None:
            print(f"  {name:<24} {reason}")
            continue
        values = {
            part: float((ours.double() - theirs).abs().max() / theirs.abs().max())
            for part, ours, theirs in zip(NAMES, found, true, strict=False)
        }
        print(f"  {name:<24} " + "  ".join(f"{part} {value:.1e}" for part, value in values.items()))
        yield from (Row(case, name, f"error of {part}", value, "of the largest") for part, value in values.items())


def times(
    case: Case, shape: Architecture, name: str, attention: Attention, suite: Suite, ceiling: float | None
) -> list[Row]:
    """Return the medians of repeated calls. The first call, which may compile and plan, has a row of its own."""
    inputs = random_inputs(shape, case.lengths(), suite.dtype)
    squares = sum(length * length for length in case.lengths())
    product = squares * shape.heads * shape.head_dim  # FLOP of one product of half the square
    begun = perf_counter()
    differentiable = len(results(attention, inputs)) > 1
    _wait()
    found = {"first call": (perf_counter() - begun, "s")}
    with torch.no_grad():
        forward = [clock(lambda: attention(*_tensors(inputs), inputs.packing)) for _ in range(suite.repeats)]
    measured = {"forward": (median(forward), 2 * product)}
    if differentiable:
        output = attention(*_tensors(inputs), inputs.packing)
        backward = [clock(lambda: _gradients(output, inputs)) for _ in range(suite.repeats)]
        measured["backward"] = (median(backward), 5 * product)
    for part, (milliseconds, flop) in measured.items():
        found[part] = (milliseconds, "ms")
        found[f"{part}, rate"] = (flop / milliseconds / 1e9, "TFLOP/s")
    line = f"  {name:<24}"
    for part, (milliseconds, flop) in measured.items():
        share = f" ({flop / milliseconds * 1e3 / ceiling:.0%})" if ceiling else ""
        line += f" {part} {milliseconds:8.2f} ms {flop / milliseconds / 1e9:6.1f} TFLOP/s{share};"
    print(f"{line} first call {found['first call'][0]:.1f} s")
    note = "what the policy takes" if name == _choice(shape, suite.dtype) else None
    limits = {unit: limit for unit, limit in (("TFLOP/s", ceiling and ceiling / 1e12),) if limit}
    return [Row(case.name, name, metric, *figure, limits.get(figure[1]), note) for metric, figure in found.items()]


def random_inputs(shape: Architecture, lengths: Sequence[int], dtype: torch.dtype) -> Inputs:
    """Return normal random numbers, the same for all implementations."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(0)
    tokens, share = sum(lengths), shape.heads // shape.groups
    draw = partial(torch.randn, generator=generator, device=device, dtype=dtype)
    projected = draw(tokens, shape.groups, share + 2, shape.head_dim)
    query = projected[:, :, :share].flatten(1, 2).requires_grad_()
    key = projected[:, :, share].contiguous().requires_grad_()
    value = projected[:, :, share + 1].detach().requires_grad_()
    bounds = torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)).to(device)
    return Inputs(query, key, value, draw(query.shape), Sequences(lengths, bounds))


def results(attention: Attention, inputs: Inputs) -> list[Tensor]:
    """Return the output and, where there is a backward pass, the gradients of query, key and value."""
    output = attention(*_tensors(inputs), inputs.packing)
    return [output.detach(), *(_gradients(output, inputs) if output.requires_grad else [])]


def in_float64(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Return attention by its definition, sequence by sequence."""
    heads = query.shape[1]
    parts = []
    for start, end in pairwise(packing.bounds.tolist()):
        q, k, v = (x[start:end].repeat_interleave(heads // x.shape[1], 1).transpose(0, 1) for x in (query, key, value))
        scores = q @ k.mT * q.shape[-1] ** -0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        parts.append((scores.masked_fill(future, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(parts)


def _widened(inputs: Inputs) -> Inputs:
    query, key, value = (x.detach().double().requires_grad_() for x in _tensors(inputs))
    return Inputs(query, key, value, inputs.gradient.double(), inputs.packing)


def _gradients(output: Tensor, inputs: Inputs) -> Sequence[Tensor]:
    return torch.autograd.grad(output, _tensors(inputs), inputs.gradient, retain_graph=True)


def _tensors(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    return inputs.query, inputs.key, inputs.value


def _choice(shape: Architecture, dtype: torch.dtype) -> str:
    index = torch.cuda.current_device() if torch.cuda.is_available() else None
    return chosen(torch.device("cpu" if index is None else f"cuda:{index}"), dtype, shape.head_dim)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
