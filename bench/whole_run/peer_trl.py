"""`python -m bench.whole_run.peer_trl SPEC.json OUT.json`: time TRL's GRPOTrainer in a process of its own.

OUT.json is written again after each step, so that a run that is stopped leaves what it has.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.generation import vllm_generation

from bench.whole_run.peer_work import (
    CLIP_HIGH,
    CLIP_LOW,
    LEARNING_RATE,
    TEMPERATURE,
    Measured,
    Shape,
    as_keywords,
    questions,
    reward,
)


@dataclass(frozen=True)
class Setting:
    """The settings that TRL offers its user and that speed depends on."""

    name: str
    batch: int
    """Number of responses of one forward and backward pass; the rest is gradient accumulation."""
    weights: str = "bfloat16"
    """Data type of weights, gradients and optimizer state; `float32` computes in bf16 by autocast."""
    checkpointing: bool = False
    sleep: bool = False
    """True when vLLM gives its memory back while the policy trains."""
    liger: bool = True
    """True for Liger's kernels for norms, rotary embedding and feed-forward; the head is TRL's own fused one in any
    case."""
    vllm: bool = True
    """True for vLLM, False for Hugging Face generation on machines without vLLM."""

    def __str__(self) -> str:
        attributes = [f"{self.batch} responses a pass", f"{self.weights} weights and optimizer state"]
        attributes += ["gradient checkpointing"] if self.checkpointing else []
        attributes += ["vLLM sleeps (level 2) while training"] if self.sleep else []
        attributes += ["Liger kernels"] if self.liger else []
        attributes += [] if self.vllm else ["Hugging Face generation, not vLLM"]
        return f"{self.name}: {', '.join(attributes)}"


def arguments(shape: Shape, setting: Setting, output: Path) -> GRPOConfig:
    """Return the configuration of the work of `shape`. Raises ValueError for what TRL refuses."""
    gpu = torch.cuda.is_available()
    engine = {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": setting.sleep,
        "vllm_gpu_memory_utilization": shape.memory_share,
        "vllm_max_model_length": shape.max_prompt_tokens + shape.max_tokens,
        # Our side takes its first update on-policy too: no pass for the log-probs of before it.
        "vllm_importance_sampling_correction": False,
    }
    return GRPOConfig(
        output_dir=str(output),
        max_steps=shape.warmup + shape.steps,
        per_device_train_batch_size=setting.batch,
        gradient_accumulation_steps=shape.responses // setting.batch,
        num_generations=shape.samples,
        max_completion_length=shape.max_tokens,
        temperature=TEMPERATURE,
        top_k=0,
        beta=0.0,
        epsilon=CLIP_LOW,
        epsilon_high=CLIP_HIGH,
        loss_type="dapo",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        bf16=shape.dtype == "bf16",
        gradient_checkpointing=setting.checkpointing,
        use_liger_kernel=setting.liger,
        use_cpu=not gpu,
        shuffle_dataset=False,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        **(engine if setting.vllm else {}),
    )


def build_model(folder: str, shape: Shape, setting: Setting) -> PreTrainedModel:
    """Build the policy, on the GPU if there is one."""
    dtype = getattr(torch, setting.weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not shape.random:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").to(device)
    config = AutoConfig.from_pretrained(folder)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.name_or_path = folder  # where TRL's vLLM reads the shape; the weights come from here before the first step
    return model


class Clock(TrainerCallback):
    """Seconds, tokens and parts of each step."""

    def __init__(self, setting: Setting, path: Path) -> None:
        self.measured = Measured(str(setting))
        self._path = path
        self._last = monotonic()
        self._tokens = 0
        self._parts: dict[str, float] = {}

    def score(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        """Return the rewards; this is the reward function, which sees all responses of a step."""
        self._tokens += sum(map(len, completion_ids))
        return [reward(index) for index in range(len(completion_ids))]

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` with its seconds counted as the part `name`."""

        @functools.wraps(function)
        def wrapped(*positional: Any, **keywords: Any) -> Any:
            with self._counting(name):
                return function(*positional, **keywords)

        return wrapped

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait_for_gpu()
        now = monotonic()
        seconds, self._last = now - self._last, now
        named = dict(self._parts)
        for name, value in {**named, "update and the rest": seconds - sum(named.values())}.items():
            self.measured.parts.setdefault(name, []).append(value)
        self.measured.seconds.append(seconds)
        self.measured.tokens.append(self._tokens)
        self.measured.moments.append(now)
        self.measured.write(self._path)
        self._tokens, self._parts = 0, {}

    @contextmanager
    def _counting(self, name: str) -> Iterator[None]:
        began = monotonic()
        yield
        wait_for_gpu()
        self._parts[name] = self._parts.get(name, 0.0) + monotonic() - began


def wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def run(folder: str, shape: Shape, setting: Setting, options: Mapping[str, Any], out: Path) -> None:
    """Train for as many steps as the shape asks for. `options` of vLLM are added to TRL's."""
    clock = Clock(setting, out)
    if setting.vllm:
        # TRL has no door for further options of its colocated vLLM.
        load = {"load_format": "dummy"} if shape.random else {}
        vllm_generation.LLM = functools.partial(vllm_generation.LLM, **load, **as_keywords(options))
    rows = [{"prompt": [{"role": "user", "content": question}]} for question in questions(shape.prompts)]
    trainer = GRPOTrainer(
        model=build_model(folder, shape, setting),
        reward_funcs=clock.score,
        args=arguments(shape, setting, out.with_suffix("")),
        train_dataset=Dataset.from_list(rows),
        callbacks=[clock],
    )
    if setting.vllm:
        engine = trainer.vllm_generation
        engine.sync_weights = clock.timed("weights to the engine", engine.sync_weights)
        engine.generate = clock.timed("rollout", engine.generate)
    trainer.train()


def main(spec_path: str, out_path: str) -> None:
    spec = json.loads(Path(spec_path).read_text())
    run(spec["model"], Shape(**spec["shape"]), Setting(**spec["setting"]), spec["options"], Path(out_path))
    sys.stdout.flush()
    os._exit(0)  # vLLM's end takes seconds that nobody needs


if __name__ == "__main__":
    main(*sys.argv[1:])
