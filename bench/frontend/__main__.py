"""`python -m bench.frontend --out DIR`: measure a vLLM server's host time per token, with our settings and its own.

The model has one layer of width 32, so that what is left is Python: the front that speaks HTTP, the engine that
schedules, the worker that samples, and our client. The worker is that of vLLM on a CPU, and engine and worker wait for
each other by polling; on one GPU another worker runs within the engine's process. All servers stay up and are asked in
turn. Figures are processor time, not seconds on the clock. Caches and the other work of the machine still move them, so
they are medians.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from transformers import Qwen2Config

from bench.frontend.processes import Seconds, children, spent
from bench.report import Row, introduce, publish
from bench.rollout.real import name_weights
from bench.usage import parser_of
from fastsvs.config import RolloutConfig, ServerConfig
from fastsvs.rollout import Request, SamplingParams, VllmEngine, drain
from fastsvs.rollout.registry import EngineSpec
from fastsvs.rollout.vllm import command

VOCABULARY = 512
PROMPT_TOKENS = 100
MAX_SEQUENCES = 512
START_SECONDS = 600.0


@dataclass(frozen=True)
class Setting:
    """The way in which a server is started."""

    provider: str
    module: str
    statistics: bool


VLLM = "vllm.entrypoints.openai.api_server"
SETTINGS = (
    Setting("vLLM, its defaults", VLLM, statistics=True),
    Setting("vLLM, statistics off", VLLM, statistics=False),
    Setting("vLLM, ours", command.SERVER, statistics=False),
)


@dataclass(frozen=True, slots=True)
class Case:
    responses: int
    samples: int
    """Number of responses to one prompt, asked for in one request."""
    tokens: int

    def __str__(self) -> str:
        return f"{self.responses} responses of {self.tokens} tokens, {self.samples} a request"

    def requests(self) -> list[Request]:
        prompts = [tuple((7 * i + j) % VOCABULARY for j in range(PROMPT_TOKENS)) for i in range(VOCABULARY)]
        sampling = SamplingParams(max_tokens=self.tokens)
        count = self.responses // self.samples
        return [Request(str(i), prompts[i % VOCABULARY], self.samples, sampling, seed=i) for i in range(count)]


CASES = (Case(512, 8, 128), Case(1024, 8, 22), Case(512, 1, 22))
WARM_UP = Case(512, 8, 8)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("frontend", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each case and setting, in turn")
    options = parser.parse_args(arguments)
    if find_spec("vllm") is None:
        sys.exit("bench.frontend measures vLLM, which is not installed: see docs/rollout.md")
    introduce("frontend", needs_gpu=False)
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "0")
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(Path(folder), options.rounds))
    publish("frontend", rows, options.out)


def measure(folder: Path, rounds: int) -> Iterator[Row]:
    with ExitStack() as stack:
        servers = {setting: start(setting, folder / str(i), stack) for i, setting in enumerate(SETTINGS)}
        runs: dict[tuple[Case, Setting], list[Seconds]]
        runs = {(case, setting): [] for case in CASES for setting in SETTINGS}
        for _ in range(rounds):
            for case, setting in runs:
                engine, *processes = servers[setting]
                began = spent(*processes)
                sample(engine, case)
                runs[case, setting].append(spent(*processes) - began)
    for (case, setting), spells in runs.items():
        yield from figures(case, setting, spells)


def start(setting: Setting, folder: Path, stack: ExitStack) -> tuple[VllmEngine, int, int]:
    """Start one server; return its engine, warmed up, and the ids of the processes that supervise the server and read
    its answers."""
    others = set(children(os.getpid()))
    with patch.object(command, "SERVER", setting.module):
        engine = stack.enter_context(closing(VllmEngine.build(specification(setting, folder))))
        (endpoint,) = engine.endpoints(START_SECONDS)
    name_weights(endpoint.url, version=0)
    engine.weights_loaded([endpoint.name], version=0)
    (supervisor,) = set(children(os.getpid())) - others
    sample(engine, WARM_UP)
    (client,) = set(children(os.getpid())) - others - {supervisor}
    return engine, supervisor, client


def specification(setting: Setting, folder: Path) -> EngineSpec:
    shape = Qwen2Config(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        vocab_size=VOCABULARY,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        architectures=["Qwen2ForCausalLM"],
    )
    server = ServerConfig(
        count=1, start_timeout_seconds=START_SECONDS, arguments={"disable-log-stats": not setting.statistics}
    )
    return EngineSpec(
        hf_config=shape,
        dtype=torch.float32,
        device=torch.device("cpu"),
        eos_token_ids=(),
        rollout=RolloutConfig(engine="vllm", max_sequences=MAX_SEQUENCES, server=server),
        max_sequence_tokens=1024,
        folder=folder,
    )


def sample(engine: VllmEngine, case: Case) -> None:
    engine.submit(case.requests())
    groups = drain(engine)
    assert sum(len(rollout.response_ids) for _, group in groups for rollout in group) == case.responses * case.tokens


def figures(case: Case, setting: Setting, spells: Sequence[Seconds]) -> Iterator[Row]:
    thousands = case.responses * case.tokens / 1000
    for process in ("front", "engine", "worker", "client"):
        milliseconds = 1000 * median(getattr(spell, process) for spell in spells)
        for what, count in (("1,000 tokens", thousands), ("response", case.responses)):
            yield Row(str(case), setting.provider, f"{process}: CPU per {what}", milliseconds / count, "ms")


if __name__ == "__main__":
    main()
