"""vLLM's decode curve: time of a step by the number of sequences, beside the memory traffic that it cannot avoid.

Weights and prompts are random. Each engine runs in a process of its own (`bench.whole_run.decode_engine`), first with
CUDA graphs and without torch.compile, then with vLLM's older model runner or without graphs where that fails.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import torch

from bench.kernels.ceilings import copy_rate
from bench.report import Row
from bench.trainer.flops import measured_matmul_rate
from bench.whole_run.cases import FAILED, Case, Place
from bench.whole_run.decode_engine import Found, Job
from bench.whole_run.slices import QWEN_7B, QWEN_32B_TP4, TINY, Slice
from fastsvs.errors import UserError

VLLM = "vLLM"
MAX_LENGTH = 4096
MEMORY_SHARE = 0.85
"""Share of the GPU for the engine: the process that measures the device's rates holds some memory as well."""
TOKENS_A_STEP = 8192
"""Most tokens in a step, vLLM's default for a server on a GPU of this size; offline it would take twice as many."""
LOOK_SECONDS = 0.1
LOG_CHARACTERS = 1500


@dataclass(frozen=True, slots=True)
class Way:
    """The way in which an engine is started."""

    name: str
    arguments: Mapping[str, Any]
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """One engine's curve."""

    shape: Slice
    dtype: str
    """Data type: `bf16`, `fp8` (the layers' products; made from bf16 weights at the start) or, on a CPU, `fp32`."""
    job: Job
    limit_seconds: float
    """Longest time for one way of starting it, from process start to the last point, in seconds."""

    @property
    def name(self) -> str:
        return f"decode/{self.shape.name}-{self.dtype}"

    def step_bytes(self, sequences: float, context: float) -> float:
        """Return the bytes that a decode step reads at least: every weight but the embedding's, and all keys and
        values."""
        element = 4 if self.dtype == "fp32" else 2
        layer = 1 if self.dtype == "fp8" else element
        weights = self.shape.layers * self.shape.layer_parameters * layer + self.shape.head_parameters * element
        return weights + sequences * context * self.shape.kv_bytes(element)

    @property
    def token_flop(self) -> float:
        """Return the FLOP of the layers' products for one token, without attention."""
        return 2.0 * self.shape.layers * self.shape.layer_parameters

    @property
    def step_flop(self) -> float:
        """Return the FLOP of the products for one sequence in a decode step: those of a token, and the head's."""
        return self.token_flop + 2.0 * self.shape.head_parameters


CONCURRENCIES = (1, 8, 32, 64, 128, 256, 512)
GPU_JOB = Job({}, 0, CONCURRENCIES, 512, steps=48, prefill_prompts=64, long_sequences=64, long_prompt_tokens=3072)
CPU_JOB = Job({}, 0, (1, 4), 64, steps=12, prefill_prompts=2, long_sequences=2, long_prompt_tokens=256)
PLANS = {
    "h200": (
        Plan(QWEN_7B, "bf16", GPU_JOB, 120.0),
        Plan(QWEN_32B_TP4, "bf16", GPU_JOB, 120.0),
        Plan(QWEN_32B_TP4, "fp8", GPU_JOB, 120.0),
        Plan(QWEN_7B, "fp8", GPU_JOB, 120.0),
    ),
    "smoke": (Plan(TINY, "fp32", CPU_JOB, 240.0),),
}
GRAPHS = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": list(CONCURRENCIES)}
WAYS = {
    "h200": (
        Way("CUDA graphs, no torch.compile", {"compilation_config": GRAPHS}, {}),
        Way("CUDA graphs, model runner V1", {"compilation_config": GRAPHS}, {"VLLM_USE_V2_MODEL_RUNNER": "0"}),
        Way("eager", {"enforce_eager": True}, {}),
        Way("eager, model runner V1", {"enforce_eager": True}, {"VLLM_USE_V2_MODEL_RUNNER": "0"}),
    ),
    "smoke": (Way("eager", {"enforce_eager": True}, {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1"}),),
}
VARIABLES = {"VLLM_NO_USAGE_STATS": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0", "HF_HUB_OFFLINE": "1"}
DTYPES = {
    "bf16": {"dtype": "bfloat16"},
    "fp8": {"dtype": "bfloat16", "quantization": "fp8_per_tensor"},
    "fp32": {"dtype": "float32"},
}


def cases(place: Place) -> list[Case]:
    """Make a case for each engine. They share the ways of starting one: what failed for one is not tried again."""
    ways = list(WAYS[place.suite])
    return [Case(plan.name, partial(measure, plan, ways)) for plan in PLANS[place.suite]]


def measure(plan: Plan, ways: list[Way], folder: Path) -> Iterator[Row]:
    """Yield the curve of the first way of starting the engine that gives a point.

    Raises UserError with every way's reason when none does, and with the last one's when it broke off.
    """
    if importlib.util.find_spec("vllm") is None:
        yield Row(plan.name, VLLM, "not measured", 1.0, "", note="vLLM cannot be imported here")
        return
    yield from _device_rates()
    reasons = []
    for way in list(ways):
        points = 0
        try:
            for row in _rows(plan, way, _run(plan, way, folder)):
                points += 1
                yield row
            return
        except UserError as error:
            reasons.append(f"{way.name}: {error}")
            if points:
                break
            if len(ways) > 1:
                ways.remove(way)
            yield Row(plan.name, VLLM, f"{way.name}: {FAILED}", 1.0, "", note=str(error))
    raise UserError("; ".join(reasons))


def _run(plan: Plan, way: Way, folder: Path) -> Iterator[Found]:
    """Yield what the engine's process finds, as it finds it. Raises UserError when it ends early or takes too long."""
    folder.mkdir(parents=True, exist_ok=True)
    plan.shape.engine_config(MAX_LENGTH).save_pretrained(folder / "model")
    job, results, log = folder / "job.json", folder / "found.jsonl", folder / f"{way.name}.log"
    engine = {
        "model": str(folder / "model"),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "max_model_len": MAX_LENGTH,
        "max_num_seqs": max(plan.job.concurrencies),
        "max_num_batched_tokens": TOKENS_A_STEP,
        "enable_prefix_caching": False,
        "gpu_memory_utilization": MEMORY_SHARE,
        **DTYPES[plan.dtype],
        **way.arguments,
    }
    job.write_text(json.dumps(asdict(replace(plan.job, engine=engine, vocabulary=plan.shape.vocabulary))))
    results.write_text("")
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.whole_run.decode_engine", str(job), str(results)],
            env={**os.environ, **VARIABLES, **way.variables},
            stdout=file,
            stderr=file,
            start_new_session=True,  # a group of its own, so that the engine's own processes end with it
        )
    try:
        yield from _follow(process, results, log, monotonic() + plan.limit_seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _follow(process: subprocess.Popen[bytes], results: Path, log: Path, until: float) -> Iterator[Found]:
    seen = 0
    while True:
        ended = process.poll() is not None
        lines = [line for line in results.read_text().splitlines(keepends=True) if line.endswith("\n")]
        for line in lines[seen:]:
            found = Found(**json.loads(line))
            if found.kind == "over":
                return
            yield found
        seen = len(lines)
        if ended:
            raise UserError(f"the engine ended with exit status {process.returncode}: {_reason(log)}")
        if monotonic() > until:
            raise UserError(f"the engine was not done in time: {_reason(log)}")
        sleep(LOOK_SECONDS)


def _reason(log: Path) -> str:
    """Return the errors in a log, each once, or else the log's end."""
    text = log.read_text(errors="replace")
    errors = dict.fromkeys(re.findall(r"\w*(?:Error|Exception): .+", text))
    wanted = [error for error in errors if "skip_tokenizer_init" not in error]  # that one is caught
    return "\n".join(wanted)[:LOG_CHARACTERS] or text[-LOG_CHARACTERS:]


def _rows(plan: Plan, way: Way, found: Iterator[Found]) -> Iterator[Row]:
    note = way.name
    for point in found:
        values = point.values
        if point.kind == "engine":
            note = f"random weights; {way.name}: {point.note}"
            yield Row(plan.name, VLLM, "start", values["start"], "s", note=note)
            share = f"gpu_memory_utilization {MEMORY_SHARE}; {note}"
            yield Row(plan.name, VLLM, "KV cache", values["kv tokens"], "tokens", note=share)
        elif point.kind == "prefill":
            rate = values["tokens"] / values["seconds"]
            limit = _rates()[1] / plan.token_flop if _bounded_by_bf16(plan) else None
            yield Row(plan.name, VLLM, "prefill", rate, "tokens/s", limit, note)
        else:
            yield from _point_rows(plan, values, note)


def _point_rows(plan: Plan, values: Mapping[str, float], note: str) -> Iterator[Row]:
    sequences, context, seconds = values["sequences"], values["context"], values["seconds"]
    if values["writing"] < 1:
        note = f"only {values['writing']:.1%} of the sequences wrote in these steps; {note}"
    name = f"{plan.name}/{sequences:.0f} sequences, {context:.0f} tokens each"
    memory = limit = None
    if torch.cuda.is_available():
        copy, products = _rates()
        memory = plan.step_bytes(sequences, context) / copy
        limit = max(memory, sequences * plan.step_flop / products) if _bounded_by_bf16(plan) else memory
    yield Row(name, VLLM, "decode step", 1e3 * seconds, "ms", limit and 1e3 * limit, note)
    yield Row(name, VLLM, "decode step, median", 1e3 * values["median"], "ms", limit and 1e3 * limit, note)
    yield Row(name, VLLM, "decode step, longest", 1e3 * values["longest"], "ms", note=note)
    yield Row(
        name, VLLM, "decode", values["writing"] * sequences / seconds, "tokens/s", limit and sequences / limit, note
    )
    if memory:
        yield Row(name, VLLM, "share of the memory floor", 100 * memory / seconds, "%", 100.0, note)


def _bounded_by_bf16(plan: Plan) -> bool:
    """Return whether the measured rate of products bounds this engine's."""
    return plan.dtype == "bf16" and torch.cuda.is_available()


def _device_rates() -> Iterator[Row]:
    """Yield the GPU's own rates, once in each process, from which the floors come."""
    if torch.cuda.is_available() and not _rates.cache_info().currsize:
        copy, products = _rates()
        yield Row("decode/device", "torch", "copy, read and written", copy / 1e12, "TB/s")
        yield Row("decode/device", "torch", "matmul 8192, bf16", products / 1e12, "TFLOP/s")


@cache
def _rates() -> tuple[float, float]:
    """Return (bytes per second, FLOP per second), measured before an engine takes the memory."""
    rates = copy_rate(), measured_matmul_rate()
    torch.cuda.empty_cache()
    return rates
