"""The chats that the groups of a step were asked: a run stores questions and responses, which prompts are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastsvs.config import TrainJob
from fastsvs.data import Message, lone_message, messages_of
from fastsvs.selfplay.azr import KINDS
from fastsvs.selfplay.rise import VERIFICATION
from fastsvs.selfplay.svs import PLACEHOLDER, load_template
from fastsvs.selfplay.templates import shown
from fastsvs.selfplay.types import SYNTHESIS

WHOLE_PROMPTS = frozenset({VERIFICATION, *KINDS})
"""Kinds of groups whose question is all that they were asked, without system message and suffix."""


def chat_of(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], job: TrainJob) -> list[Message]:
    """Return the chat that a stored group of the run of `job` was asked, from its `row` and the `rows` of its step by
    key. The prefix of a response that a sampler gave is not stored, and is no part of it."""
    if row["kind"] == SYNTHESIS:
        context = shown(rows[row["parent"]]["responses"][row["parent_sample"]], job.selfplay)
        return lone_message(load_template(job.selfplay.template).replace(PLACEHOLDER, context))
    if row["kind"] in WHOLE_PROMPTS:
        return lone_message(row["question"])
    return messages_of(row["question"], job.data, "train", row.get("system"))
