"""Problems: records, loaders, prompts, and the procedural tiny task."""

from fastsvs.data.loader import NO_PROBLEMS, load_dialogues, load_problems
from fastsvs.data.prompts import (
    PROMPTS,
    PromptFn,
    encode_dialogue,
    encode_dialogues,
    encode_problems,
    encode_prompt,
    load_tokenizer,
)
from fastsvs.data.records import Dialogue, Message, Problem
from fastsvs.data.report import LoadReport
from fastsvs.data.sampler import EpochSampler

__all__ = [
    "NO_PROBLEMS",
    "PROMPTS",
    "Dialogue",
    "EpochSampler",
    "LoadReport",
    "Message",
    "Problem",
    "PromptFn",
    "encode_dialogue",
    "encode_dialogues",
    "encode_problems",
    "encode_prompt",
    "load_dialogues",
    "load_problems",
    "load_tokenizer",
]
