"""What a stand-in server answers: a function of the prompt, the seed and the sample's number.

A question says how it is answered, and a right response holds its number, so that whoever writes a variant of the
problem from the response can keep the answer. Responses to problems that are never right are as long as 32B's: they go
all the way that responses go, except that nothing is learned from them.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

HALF, NEVER = "now and then", "never"
RIGHT = 3
"""Of eight samples, three are right: every third, from the first on."""
P99_OVER_MEDIAN, STANDARD_P99 = 10, 2.326
"""Lengths are log-normal, with 32B's spread (bench/client/server.py)."""
FILLER = "Now we know how many apples there are in all, and then we take some of them away, so there are fewer left."


def question(name: str, kind: str, number: int) -> str:
    return f"Task {name}, which is solved {kind}. What is the number {number}?"


@dataclass(frozen=True)
class Writer:
    """Writer of responses."""

    tokenizer: Tokenizer
    long_median: int
    short_median: int

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Writer:
        tokenizer = Tokenizer.from_file(str(Path(settings["model"], "tokenizer.json")))
        return cls(tokenizer, settings["long_median"], settings["short_median"])

    @cached_property
    def _filler(self) -> np.ndarray:
        return np.unique(self._encode(FILLER))

    def samples(self, prompt_ids: list[int], sampling: dict[str, Any], version: str) -> list[dict[str, Any]]:
        """Return the choices of an answer in vLLM's form."""
        prompt = self.tokenizer.decode(prompt_ids, skip_special_tokens=False)
        return [self._choice(prompt, sampling, index, version) for index in range(sampling["n"])]

    def _choice(self, prompt: str, sampling: dict[str, Any], index: int, version: str) -> dict[str, Any]:
        seed = f"{prompt} {sampling['seed'] + index}"
        text, median = self.response(prompt, random.Random(seed), index)
        draw = np.random.default_rng(abs(hash_of(seed)))
        end, limit = self._encode(text), sampling["max_tokens"]
        spread = np.log(P99_OVER_MEDIAN) / STANDARD_P99
        length = max(1, round(median * np.exp(spread * draw.standard_normal())))
        ids = [*draw.choice(self._filler, length).tolist(), *end, sampling["stop_token_ids"][0]][:limit]
        stopped = ids[-1] in sampling["stop_token_ids"]
        logprobs = (-np.log(self.tokenizer.get_vocab_size()) - 0.01 * draw.random(len(ids))).tolist()
        return {
            "index": index,
            "finish_reason": "stop" if stopped else "length",
            "token_ids": ids,
            "weight_versions": [{"version": version, "start": 0, "end": len(ids)}],
            "logprobs": {
                "content": [
                    {"token_id": token, "logprob": logprob, "rank": 1, "top_logprobs": []}
                    for token, logprob in zip(ids, logprobs, strict=True)
                ]
            },
        }

    def response(self, prompt: str, dice: random.Random, index: int) -> tuple[str, int]:
        """Return the end of a response, and the median length of responses to such a prompt."""
        number = (re.findall(r"the number (\d+)", prompt) or ["0"])[-1]
        if "Task " not in prompt:  # the request for a variant of the problem that a response solves
            kind = NEVER if index % 2 else HALF
            return f"\n```text\n{question(f'{dice.getrandbits(60)}', kind, int(number))}\n```", self.short_median
        if f"solved {NEVER}" in prompt:
            return " It is \\boxed{-1}", self.long_median
        return f" It is the number {number}: \\boxed{{{number if index % RIGHT == 0 else -1}}}", self.short_median

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def hash_of(text: str) -> int:
    """Return a number that depends on the text alone, unlike Python's own hash."""
    return int.from_bytes(text.encode()[-64:], "little") ^ len(text)


def answer(choices: list[dict[str, Any]]) -> bytes:
    body = {"request_id": "0" * 32, "model": "policy", "created": 1_790_000_000, "usage": None, "choices": choices}
    return json.dumps(body, separators=(",", ":")).encode()
