"""The side of FastSvS: the parts of `fastsvs.training.loop` in its order, in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch

from bench.end_to_end.work import LEARNING_RATE, MAX_TOKENS, SAMPLES, TEMPERATURE, Measured, encode, questions, reward
from fastsvs.algorithms import Context, aggregation_weights, make_batch, policy_loss, token_advantages
from fastsvs.config import AlgorithmConfig, ModelConfig, OptimizerConfig, PolicyConfig
from fastsvs.data import Problem, load_tokenizer
from fastsvs.policy import Policy
from fastsvs.rollout import LocalEngine, Request, SamplingParams, drain
from fastsvs.selfplay import Group, original_tasks
from fastsvs.sync import LocalSync


class Ours:
    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(str(folder))
        optimizer = OptimizerConfig(learning_rate=LEARNING_RATE, weight_decay=0.0)
        config = PolicyConfig(dtype="fp32", recompute="none", tokens_per_micro_batch=4096, optimizer=optimizer)
        self.policy = Policy(
            ModelConfig(path=str(folder)), config, seed=0, total_updates=10_000, max_sequence_tokens=256
        )
        self.engine = LocalEngine(
            self.policy.hf_config,
            dtype=torch.float32,
            device=torch.device("cpu"),
            eos_token_ids=[self.tokenizer.eos_token_id],
            max_sequences=256,
        )
        self.sync = LocalSync(self.policy, self.engine)
        self.algorithm = AlgorithmConfig()
        self.loss = policy_loss(self.algorithm)
        problems = [Problem(str(i), question, "0") for i, question in enumerate(questions())]
        self.tasks = original_tasks([(p, encode(self.tokenizer, p.question)) for p in problems], SAMPLES)
        self.version = 0
        self.sync.publish(0)

    def run(self, warmup: int, steps: int, measured: Measured) -> None:
        for step in range(warmup + steps):
            marks = [perf_counter()]
            groups = self._roll_out()
            marks.append(perf_counter())
            batch = make_batch(groups)
            batch = replace(batch, advantages=token_advantages(batch, Context(self.algorithm)))
            weights = aggregation_weights(batch.response_lengths, "token_mean", MAX_TOKENS)
            self.policy.update(batch, self.loss, self.algorithm, weights, TEMPERATURE)
            marks.append(perf_counter())
            self.version += 1
            self.sync.publish(self.version)
            marks.append(perf_counter())
            if step >= warmup:
                measured.seconds.append(marks[-1] - marks[0])
                measured.tokens.append(sum(len(r.response_ids) for group in groups for r in group.rollouts))
                for name, begin, end in zip(("rollout", "update", "sync"), marks, marks[1:], strict=False):
                    measured.parts.setdefault(name, []).append(end - begin)

    def _roll_out(self) -> list[Group]:
        sampling = SamplingParams(temperature=TEMPERATURE, max_tokens=MAX_TOKENS)
        self.engine.submit([Request(t.key, t.prompt_ids, t.samples, sampling, self.version) for t in self.tasks])
        tasks = {task.key: task for task in self.tasks}
        groups = []
        for key, rollouts in drain(self.engine):
            texts = tuple(self.tokenizer.decode(r.response_ids, skip_special_tokens=True) for r in rollouts)
            group = Group(tasks[key], tuple(rollouts), texts)
            scores = [reward(text, r.response_ids) for text, r in zip(texts, rollouts, strict=True)]
            groups.append(replace(group, rewards=tuple(scores)))
        return groups
