"""The side of TRL: its GRPOTrainer with Hugging Face generation, on the same work."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from bench.end_to_end.work import (
    LEARNING_RATE,
    MAX_TOKENS,
    PROMPTS,
    SAMPLES,
    TEMPERATURE,
    Measured,
    questions,
    reward,
)


class _Clock(TrainerCallback):
    def __init__(self, warmup: int, measured: Measured) -> None:
        self.warmup, self.measured, self.tokens, self.began = warmup, measured, 0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began, self.tokens = perf_counter(), 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > self.warmup:
            self.measured.seconds.append(perf_counter() - self.began)
            self.measured.tokens.append(self.tokens)


def run(folder: Path, warmup: int, steps: int, measured: Measured) -> None:
    clock = _Clock(warmup, measured)

    def score(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        clock.tokens += sum(map(len, completion_ids))
        texts = [completion[0]["content"] for completion in completions]
        return [reward(text, ids) for text, ids in zip(texts, completion_ids, strict=True)]

    with tempfile.TemporaryDirectory() as output:
        config = GRPOConfig(
            output_dir=output,
            max_steps=warmup + steps,
            per_device_train_batch_size=PROMPTS * SAMPLES,
            num_generations=SAMPLES,
            max_completion_length=MAX_TOKENS,
            temperature=TEMPERATURE,
            top_k=0,
            beta=0.0,
            epsilon_high=0.28,
            loss_type="dapo",
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to=[],
            logging_steps=10_000,
            save_strategy="no",
            disable_tqdm=True,
            model_init_kwargs={"dtype": "float32"},
        )
        rows = [{"prompt": [{"role": "user", "content": question}]} for question in questions()]
        GRPOTrainer(
            model=str(folder),
            reward_funcs=score,
            args=config,
            train_dataset=Dataset.from_list(rows),
            callbacks=[clock],
        ).train()
