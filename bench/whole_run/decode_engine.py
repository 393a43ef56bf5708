"""One vLLM engine in a process of its own, stepped by hand: the time of each decode step as more sequences join.

python -m bench.whole_run.decode_engine JOB.json FOUND.jsonl       # started by bench.whole_run.decode

The sequences of one number stay when those of the next join, so every prompt is read once. Steps are timed only once
all of them write: each such step gives one token of each.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

SETTLING_STEPS = 8
"""Number of steps that are not timed after the last prompt was read."""


@dataclass(frozen=True, slots=True)
class Job:
    """The work that one process measures."""

    engine: dict[str, Any]
    """Arguments of `vllm.LLM`."""
    vocabulary: int
    concurrencies: tuple[int, ...]
    """Numbers of sequences, growing."""
    prompt_tokens: int
    steps: int
    """Number of steps timed at each number of sequences."""
    prefill_prompts: int
    """Number of prompts read at once, to time the reading."""
    long_sequences: int
    long_prompt_tokens: int
    """Number of prompt tokens of a last point.

    It has far more context, so that the cost of context can be told from that of sequences.
    """


@dataclass(frozen=True, slots=True)
class Found:
    """One line of the results."""

    kind: str
    """Kind of the line: `engine`, `prefill`, `decode` or `over`."""
    values: dict[str, float] = field(default_factory=dict)
    note: str = ""


class Batch:
    """The sequences that an engine is writing now."""

    def __init__(self, llm: Any, vocabulary: int) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._engine = llm.llm_engine
        self._vocabulary = vocabulary
        self._random = np.random.default_rng(0)
        self._made = 0
        self._parameters = lambda tokens: SamplingParams(
            temperature=1.0,
            max_tokens=tokens,
            ignore_eos=True,
            logprobs=0,  # of the sampled token alone, as a run asks for them
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self.context: dict[str, int] = {}
        """Number of tokens of each sequence, prompt included."""
        self.silent: set[str] = set()
        """Names of the sequences without a token of their own so far."""

    def join(self, count: int, prompt_tokens: int, new_tokens: int) -> None:
        """Send `count` more prompts of random tokens, all different."""
        for _ in range(count):
            name, self._made = str(self._made), self._made + 1
            prompt = self._random.integers(self._vocabulary, size=prompt_tokens).tolist()
            self.context[name] = prompt_tokens
            self.silent.add(name)
            self._engine.add_request(name, {"prompt_token_ids": prompt}, self._parameters(new_tokens))

    def step(self) -> int:
        """Let the engine take a step, and return the number of tokens that it gave."""
        given = 0
        for output in self._engine.step():
            if output.request_id in self.context:
                tokens = sum(len(part.token_ids) for part in output.outputs)
                given += tokens
                self.context[output.request_id] += tokens
                if tokens:
                    self.silent.discard(output.request_id)
        return given

    def begin(self) -> None:
        """Step until every sequence has a token of its own."""
        while self.silent:
            self.step()

    def clear(self) -> None:
        """Drop all sequences."""
        self._engine.abort_request(list(self.context))
        self.context.clear()
        self.silent.clear()


def measure(job: Job, out: Path) -> None:
    """Write a line of `Found` for each point, as soon as it is known."""
    began = perf_counter()
    from vllm import LLM

    llm = LLM(**job.engine)
    _keep(out, _engine(llm, perf_counter() - began))
    batch = Batch(llm, job.vocabulary)
    _read(batch, job)  # compiles what the first prompts need
    _keep(out, _read(batch, job))
    longest = llm.llm_engine.model_config.max_model_len
    for concurrency in job.concurrencies:
        batch.join(concurrency - len(batch.context), job.prompt_tokens, longest - job.prompt_tokens)
        _keep(out, _decode(batch, job.steps))
    batch.clear()
    batch.join(job.long_sequences, job.long_prompt_tokens, longest - job.long_prompt_tokens)
    _keep(out, _decode(batch, job.steps))
    _keep(out, Found("over"))


def _engine(llm: Any, seconds: float) -> Found:
    """Return the settings that the engine chose."""
    config = llm.llm_engine.vllm_config
    blocks = config.cache_config.num_gpu_blocks or 0
    compilation, scheduler = config.compilation_config, config.scheduler_config
    return Found(
        "engine",
        {"start": seconds, "kv tokens": float(blocks * config.cache_config.block_size)},
        f"torch.compile mode {compilation.mode}, CUDA graphs {compilation.cudagraph_mode}, model runner "
        f"V{2 if config.use_v2_model_runner else 1}, asynchronous scheduling {scheduler.async_scheduling}, at most "
        f"{scheduler.max_num_batched_tokens} tokens a step",
    )


def _read(batch: Batch, job: Job) -> Found:
    """Time the reading of prompts whose responses have one token."""
    began = perf_counter()
    batch.join(job.prefill_prompts, job.prompt_tokens, 1)
    batch.begin()
    seconds = perf_counter() - began
    batch.clear()
    return Found("prefill", {"tokens": float(job.prefill_prompts * job.prompt_tokens), "seconds": seconds})


def _decode(batch: Batch, steps: int) -> Found:
    """Time `steps` that give tokens. All sequences write in each of them, unless the engine put some of them aside."""
    batch.begin()
    for _ in range(SETTLING_STEPS):
        batch.step()
    sequences, before = len(batch.context), sum(batch.context.values())
    tokens, moments = 0, [perf_counter()]
    while len(moments) <= steps:
        if given := batch.step():
            tokens += given
            moments.append(perf_counter())
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    return Found(
        "decode",
        {
            "sequences": float(sequences),
            "context": (before + sum(batch.context.values())) / 2 / sequences,
            "seconds": (moments[-1] - moments[0]) / steps,
            "median": median(gaps),
            "longest": max(gaps),
            "writing": tokens / (steps * sequences),
        },
    )


def _keep(out: Path, found: Found) -> None:
    with out.open("a") as file:
        file.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    measure(Job(**json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
