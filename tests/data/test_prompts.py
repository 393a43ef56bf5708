"""Chat prompts and loss masks, checked against what the template itself renders."""

from pathlib import Path

import pytest
from chat_templates import CHATML
from chats import chat
from transformers import PreTrainedTokenizerBase

from fastsvs.config import DataConfig
from fastsvs.data import (
    PROMPTS,
    Problem,
    encode_dialogue,
    encode_dialogues,
    encode_problems,
    encode_prompt,
    load_tokenizer,
)
from fastsvs.data.tiny.model import build_tokenizer
from fastsvs.errors import UserError


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


def test_a_chat_prompt_is_system_then_question_with_suffix() -> None:
    config = DataConfig(path="x", suffix=" Think.", system_prompt="Be brief.")
    assert PROMPTS.get("chat")("1+1?", config, "train") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1? Think."},
    ]
    plain = DataConfig(path="x", suffix="")
    assert PROMPTS.get("chat")("1+1?", plain, "eval") == [{"role": "user", "content": "1+1?"}]


def test_a_prompt_ends_where_the_assistant_begins(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = encode_prompt(tokenizer, [{"role": "user", "content": "Tom has 12 pens."}])
    assert tokenizer.decode(ids) == "<|user|>Tom has 12 pens.<|assistant|>"


def test_a_refused_role_is_a_user_error(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"refuses the roles \['system'\].*user and assistant only"):
        encode_prompt(tokenizer, [{"role": "system", "content": "Be brief."}])


@pytest.mark.parametrize("template", [None, CHATML], ids=["tiny", "chatml"])
def test_the_mask_covers_the_assistant_to_its_end_token_in_every_turn(
    tokenizer: PreTrainedTokenizerBase, template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if template:
        monkeypatch.setattr(tokenizer, "chat_template", template)
    dialogue = chat("How many pens?", "7+5=12", "How many eggs?", "3\n")
    [(ids, mask)] = encode_dialogue(tokenizer, dialogue).examples
    assert len(ids) == len(mask)
    learned = tokenizer.decode([token for token, kept in zip(ids, mask, strict=True) if kept])
    assert learned == "7+5=12<|end|>3\n<|end|>"
    whole = tokenizer.apply_chat_template(list(dialogue.messages), tokenize=True, return_dict=False)
    assert list(ids) == whole


def test_the_unmasked_start_is_the_prompt_that_rollouts_use(tokenizer: PreTrainedTokenizerBase) -> None:
    dialogue = chat("How many pens?", "\\boxed{12}")
    [(ids, mask)] = encode_dialogue(tokenizer, dialogue).examples
    prompt = encode_prompt(tokenizer, dialogue.messages[:1])
    assert ids[: len(prompt)] == prompt
    assert mask == (False,) * len(prompt) + (True,) * (len(ids) - len(prompt))


def test_long_prompts_are_left_out_and_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    problems = [Problem(str(n), "pens " * n, "1") for n in (1, 5, 50)]
    config = DataConfig(path="x", suffix="", max_prompt_tokens=12)
    kept, report = encode_problems(problems, tokenizer, config, "train")
    assert [problem.id for problem, _ in kept] == ["1", "5"]
    assert all(ids == encode_prompt(tokenizer, [{"role": "user", "content": p.question}]) for p, ids in kept)
    assert (report.rows, report.kept, report.over_length) == (3, 2, 1)
    assert "1 longer than 12 tokens: left out" in report.describe()[1]
    with pytest.raises(UserError, match="no prompt is left"):
        encode_problems(problems[2:], tokenizer, config, "train")


def test_long_dialogues_are_left_out_and_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    kept, report = encode_dialogues([chat("a", "b"), chat("a " * 60, "b")], tokenizer, 20, "x")
    assert encode_dialogue(tokenizer, chat("a", "b")).examples == kept
    assert (report.rows, report.kept, report.over_length) == (2, 1, 1)
    with pytest.raises(UserError, match="no dialogue is left"):
        encode_dialogues([chat("a " * 60, "b")], tokenizer, 20, "x")


def test_a_tokenizer_must_exist_chat_and_stop(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer can be loaded from"):
        load_tokenizer(str(tmp_path))
    mute = build_tokenizer()
    mute.chat_template = None
    mute.save_pretrained(tmp_path / "mute")
    with pytest.raises(UserError, match=r"no chat template: put a chat_template\.jinja"):
        load_tokenizer(str(tmp_path / "mute"))
    tokenizer.save_pretrained(tmp_path / "good")
    assert load_tokenizer(str(tmp_path / "good")).get_vocab() == tokenizer.get_vocab()
