"""The tokenizer and its chat template: how messages become the text, and the token ids, that a policy reads."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fastsvs import hub
from fastsvs.config import TemplateConfig
from fastsvs.data.records import Message
from fastsvs.errors import UserError
from fastsvs.shipped import elsewhere

Template = Mapping[str, Any]
"""Keywords of `apply_chat_template` that choose a template and set its variables (`TemplateConfig.template`)."""
DEFAULT: Template = {}
_SET_BY_US = {"messages", "self", *inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters}
_OPEN = {"tools", "documents", "kwargs"}
"""Parameters of `apply_chat_template` that a configuration may set."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A chat as text."""

    text: str
    folded: bool = False
    """True where the system message stands at the beginning of the user's, as the template shows none."""


def load_tokenizer(path: str, *data: TemplateConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Hugging Face folder or hub id. Raises UserError when there is none, when it has no chat
    template or no end token, or when its templates do not go with the keys of a `data` section."""
    hub.settle(path)
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
    for section in data:
        check_template(tokenizer, section, path)
    return tokenizer


def check_template(tokenizer: PreTrainedTokenizerBase, data: TemplateConfig, path: str) -> None:
    """Check that the tokenizer has the template that `data` names, and that the template reads its arguments. Raises
    UserError where it does not."""
    text = _named_template(tokenizer.chat_template, data.template_name, path)
    for argument in data.template_arguments:
        _check_argument(argument, text, path)


def _named_template(templates: str | dict[str, str], name: str | None, path: str) -> str:
    if isinstance(templates, str):
        if name is None:
            return templates
        raise UserError(
            f"data.template_name={name!r}, but the tokenizer of {path} has a single chat template without a name: "
            "remove the key"
        )
    known = ", ".join(sorted(templates))
    if name is None and "default" not in templates:
        raise UserError(
            f"the tokenizer of {path} has the chat templates {known}, and none of them is the default: name one in "
            "data.template_name"
        )
    if name is not None and name not in templates:
        raise UserError(
            f"data.template_name={name!r}, but the chat templates of the tokenizer of {path} are {known}: name one of "
            "them"
        )
    return templates[name or "default"]


def _check_argument(argument: str, template: str, path: str) -> None:
    key, words = f"data.template_arguments.{argument}", set(re.findall(r"\w+", template))
    if argument in _SET_BY_US - _OPEN:
        raise UserError(f"{key}: the trainer itself sets {argument}; remove the key")
    if argument not in words:
        near = get_close_matches(argument, words, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{key}: the chat template of {path} has no variable {argument!r}{hint}")


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], template: Template = DEFAULT
) -> tuple[int, ...]:
    """Return the token ids of the chat up to the point where the assistant begins to write."""
    return encode_rendered(tokenizer, render(tokenizer, messages, template).text)


def encode_rendered(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Return the token ids of a rendered chat, or of a part of one."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    template: Template = DEFAULT,
    generation_prompt: bool = True,
) -> Rendered:
    """Return the chat as the template shows it, with the beginning of the assistant's turn unless `generation_prompt`
    is false.

    A template that leaves out the system message, or refuses it, gets it at the beginning of the user's message, where
    Gemma's own template puts it. Raises UserError for a chat that the template refuses.
    """
    folded = _folded(messages)
    try:
        text = _apply(tokenizer, messages, template, generation_prompt)
    except UserError:
        if folded is None:
            raise
        try:
            return Rendered(_apply(tokenizer, folded, template, generation_prompt), folded=True)
        except UserError:
            pass  # the system message is not what the template refuses
        raise
    if folded is None or shows(text, messages[0]["content"]):
        return Rendered(text)
    return Rendered(_apply(tokenizer, folded, template, generation_prompt), folded=True)


def reads_clock(tokenizer: PreTrainedTokenizerBase, template: Template) -> bool:
    """Return whether the template writes the date into prompts, as that of Llama 3.2 does, so that they change from day
    to day."""
    asked = [{"role": "user", "content": "?"}]
    clocks = ({"strftime_now": lambda _, moment=moment: moment} for moment in ("then", "now"))
    return len({render(tokenizer, asked, {**template, **clock}).text for clock in clocks}) > 1


def shows(text: str, part: str) -> bool:
    """Return whether `text` holds `part`, whatever the template did to white space."""
    return part.strip() in text or "".join(part.split()) in "".join(text.split())


def _folded(messages: Sequence[Message]) -> list[Message] | None:
    """Return the chat with its system message at the beginning of the user's, or None where it has no such pair."""
    if [message["role"] for message in messages[:2]] != ["system", "user"]:
        return None
    system, user, *rest = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def _apply(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], template: Template, generation_prompt: bool
) -> str:
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation_prompt, **template
        )
    except TemplateSyntaxError as error:
        raise UserError(f"the chat template is not valid Jinja: line {error.lineno}: {error}") from error
    except Exception as error:  # a template is a program of its own
        roles = [message["role"] for message in messages]
        said = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        raise UserError(f"the chat template refuses the roles {roles}: {said}") from error
