"""PromptFns, and the encoding of problems as the token ids that a policy reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, cast

from transformers import PreTrainedTokenizerBase

from fastsvs.config import DataConfig
from fastsvs.data.chat import encode_rendered, render
from fastsvs.data.records import Message, Problem
from fastsvs.data.report import LoadReport
from fastsvs.errors import UserError
from fastsvs.registry import Registry

Mode = Literal["train", "eval"]
FOLDED = "{:,} system messages stand at the beginning of the user's: the chat template shows none of its own"


class PromptFn(Protocol):
    """A function that returns the chat in which a question is asked."""

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


def messages_of(question: str, config: DataConfig, mode: Mode, system: str | None = None) -> list[Message]:
    """Return the chat that asks a question, as the PromptFn of `config` makes it. `system` is the data set's own system
    message, which stands in the place of `data.system_prompt`."""
    told = config if system is None else config.model_copy(update={"system_prompt": system})
    return _as_messages(config.prompt, PROMPTS.get(config.prompt)(question, told, mode))


def lone_message(text: str) -> list[Message]:
    """Return the chat in which the user says `text`, and nothing stands before it."""
    return [{"role": "user", "content": text}]


def _as_messages(name: str, returned: object) -> list[Message]:
    """Return what a PromptFn returned. Raises UserError where that is no chat."""
    for message in returned if isinstance(returned, list) and returned else [returned]:
        texts = [message.get("role"), message.get("content")] if isinstance(message, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"prompt {name!r} returned {message!r:.100}; it must return a list of messages, each "
                '{"role": ..., "content": ...} of texts'
            )
    return cast("list[Message]", returned)


def encode_problems(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, config: DataConfig, mode: Mode
) -> tuple[list[tuple[Problem, tuple[int, ...]]], LoadReport]:
    """Return each problem with its prompt's token ids; prompts over `config.max_prompt_tokens` are left out and
    counted.

    Raises UserError when none is left.
    """
    encoded = []
    folded = 0
    for problem in problems:
        messages = messages_of(problem.question, config, mode, problem.system)
        rendered = render(tokenizer, messages, config.template)
        folded += rendered.folded
        encoded.append((problem, encode_rendered(tokenizer, rendered.text)))
    kept = [(problem, ids) for problem, ids in encoded if len(ids) <= config.max_prompt_tokens]
    report = LoadReport(
        path=config.path,
        rows=len(problems),
        kept=len(kept),
        what="prompts",
        notes=(FOLDED.format(folded),) if folded else (),
        over_length=len(problems) - len(kept),
        max_tokens=config.max_prompt_tokens,
    )
    if not kept:
        raise UserError("no prompt is left (data.max_prompt_tokens):\n" + "\n".join(report.describe()))
    return kept, report
