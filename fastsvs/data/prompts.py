"""Encoding of problems as the token ids that a policy reads, and of dialogues as ids with a loss mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fastsvs.config import DataConfig
from fastsvs.data.records import Dialogue, Message, Problem
from fastsvs.data.report import LoadReport
from fastsvs.errors import UserError
from fastsvs.registry import Registry
from fastsvs.shipped import elsewhere

Mode = Literal["train", "eval"]


class PromptFn(Protocol):
    def __call__(self, question: str, config: DataConfig, mode: Mode) -> list[Message]: ...


PROMPTS = Registry[PromptFn]("prompt", takes=("question", "config", "mode"))


@PROMPTS.register("chat")
def chat_prompt(question: str, config: DataConfig, mode: Mode) -> list[Message]:
    """Return the system prompt if there is one, then one user message: question and suffix."""
    system = [{"role": "system", "content": config.system_prompt}] if config.system_prompt else []
    return [*system, {"role": "user", "content": question + config.suffix}]


@PROMPTS.register("merf")
def motivated_prompt(question: str, config: DataConfig, mode: Mode) -> list[Message]:
    """Begin the prompt with the rules of the reward in training, not in evaluation (MeRF, arXiv 2506.18485). Raises
    UserError without `data.rules`."""
    if config.rules is None:
        raise UserError("data.prompt=merf tells the policy what is rewarded: say it in data.rules")
    if mode == "eval":
        return chat_prompt(question, config, mode)
    if config.rules_in == "user":
        return chat_prompt(f"{config.rules}\n\n{question}", config, mode)
    told = "\n\n".join(part for part in (config.system_prompt, config.rules) if part)
    return chat_prompt(question, config.model_copy(update={"system_prompt": told}), mode)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Hugging Face folder or hub id. Raises UserError when there is none, or when it has no
    chat template or no end token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # files, hub and tokenizer code raise all sorts; each means there is no tokenizer
        raise UserError(f"no tokenizer can be loaded from {path}: {elsewhere(path, error)}") from error
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {path} has no chat template: put a chat_template.jinja beside its "
            "tokenizer_config.json, or point model.tokenizer at an instruct model with the same vocabulary"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {path} names no eos_token: set it in its tokenizer_config.json")
    return tokenizer


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[int, ...]:
    """Return the token ids of the chat up to the point where the assistant begins to write."""
    return _render(tokenizer, messages, generation_prompt=True)


def encode_problems(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, config: DataConfig, mode: Mode
) -> tuple[list[tuple[Problem, tuple[int, ...]]], LoadReport]:
    """Return each problem with its prompt's token ids; prompts over `config.max_prompt_tokens` are left out and
    counted.

    Raises UserError when none is left.
    """
    prompt = PROMPTS.get(config.prompt)
    encoded = [(problem, encode_prompt(tokenizer, prompt(problem.question, config, mode))) for problem in problems]
    kept = [(problem, ids) for problem, ids in encoded if len(ids) <= config.max_prompt_tokens]
    report = LoadReport(
        path=config.path,
        rows=len(problems),
        kept=len(kept),
        what="prompts",
        over_length=len(problems) - len(kept),
        max_tokens=config.max_prompt_tokens,
    )
    if not kept:
        raise UserError("no prompt is left (data.max_prompt_tokens):\n" + "\n".join(report.describe()))
    return kept, report


def encode_dialogue(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return (ids [tokens], loss mask [tokens]): the mask is True on what the assistant writes, its end token included.

    An assistant turn is what the template adds to the chat before it with the generation prompt. What follows the end
    token (a line break in ChatML) is never sampled, so it carries no loss. Raises UserError for a template under which
    the chat before a turn is not a prefix of the chat with it.
    """
    ids: tuple[int, ...] = ()
    mask: list[bool] = []
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    for turn, message in enumerate(dialogue.messages):
        if message["role"] != "assistant":
            continue
        before = encode_prompt(tokenizer, dialogue.messages[:turn])
        after = _render(tokenizer, dialogue.messages[: turn + 1], generation_prompt=False)
        if before[: len(ids)] != ids or after[: len(before)] != before:
            raise UserError(
                f"the chat template rewrites earlier turns (seen at turn {turn} of {len(dialogue.messages)}): "
                "give it dialogues with a single assistant turn"
            )
        ends = [index for index in range(len(before), len(after)) if after[index] in special]
        written = (ends[-1] + 1 if ends else len(after)) - len(before)
        mask += [False] * (len(before) - len(ids)) + [True] * written
        mask += [False] * (len(after) - len(mask))
        ids = after
    return ids, tuple(mask)


def encode_dialogues(
    dialogues: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase, max_tokens: int, path: str
) -> tuple[list[tuple[tuple[int, ...], tuple[bool, ...]]], LoadReport]:
    """Return all dialogues as (ids, loss mask); those over `max_tokens` are left out and counted.

    Raises UserError when none is left.
    """
    encoded = [encode_dialogue(tokenizer, dialogue) for dialogue in dialogues]
    kept = [(ids, mask) for ids, mask in encoded if len(ids) <= max_tokens]
    report = LoadReport(
        path=path,
        rows=len(dialogues),
        kept=len(kept),
        what="encoded dialogues",
        over_length=len(dialogues) - len(kept),
        max_tokens=max_tokens,
    )
    if not kept:
        raise UserError("no dialogue is left (data.max_tokens):\n" + "\n".join(report.describe()))
    return kept, report


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generation_prompt: bool
) -> tuple[int, ...]:
    try:
        ids = tokenizer.apply_chat_template(
            list(messages), tokenize=True, add_generation_prompt=generation_prompt, return_dict=False
        )
    except TemplateError as error:
        roles = [message["role"] for message in messages]
        raise UserError(f"the chat template refuses the roles {roles}: {error}") from error
    return tuple(ids)
