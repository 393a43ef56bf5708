"""Problems: records, loaders, prompts, and the procedural tiny task."""

from fastsvs.data.chat import encode_prompt, load_tokenizer, reads_clock
from fastsvs.data.dialogues import encode_dialogue, encode_dialogues
from fastsvs.data.examples import load_dialogues
from fastsvs.data.inputs import (
    EncodedProblem,
    Inputs,
    check_tokenizer,
    longest_prompt,
    read_inputs,
    read_problems,
    stop_token_ids,
)
from fastsvs.data.loader import NO_PROBLEMS, load_problems
from fastsvs.data.prompts import PROMPTS, PromptFn, encode_problems, lone_message, messages_of
from fastsvs.data.records import Dialogue, Message, Problem
from fastsvs.data.report import LoadReport
from fastsvs.data.sampler import EpochSampler
from fastsvs.data.sources import read_tables

__all__ = [
    "NO_PROBLEMS",
    "PROMPTS",
    "Dialogue",
    "EncodedProblem",
    "EpochSampler",
    "Inputs",
    "LoadReport",
    "Message",
    "Problem",
    "PromptFn",
    "check_tokenizer",
    "encode_dialogue",
    "encode_dialogues",
    "encode_problems",
    "encode_prompt",
    "load_dialogues",
    "load_problems",
    "load_tokenizer",
    "lone_message",
    "longest_prompt",
    "messages_of",
    "read_inputs",
    "read_problems",
    "read_tables",
    "reads_clock",
    "stop_token_ids",
]
