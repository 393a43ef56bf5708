"""Whatever a chat template does to thoughts, earlier turns and system messages: prompts hold what they should, and
dialogues are learned as the policy would write them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from chat_templates import CHATML, DEAF, END, GEMMA, LLAMA32, MISTRAL, QWEN3, QWEN3_THINKING, R1, R1_DISTILL
from chats import chat
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from fastsvs.config import DataConfig, SftDataConfig, TemplateConfig
from fastsvs.data import (
    Dialogue,
    Problem,
    encode_dialogue,
    encode_dialogues,
    encode_problems,
    encode_prompt,
    load_tokenizer,
    reads_clock,
)
from fastsvs.data.tiny.model import build_tokenizer
from fastsvs.errors import UserError

ALL = {
    "chatml": CHATML,
    "r1-distill": R1_DISTILL,
    "r1": R1,
    "qwen3": QWEN3,
    "qwen3-thinking": QWEN3_THINKING,
    "gemma": GEMMA,
    "deaf": DEAF,
    "mistral": MISTRAL,
    "llama3.2": LLAMA32,
}
THOUGHT = "<think>\n7 and 5\n</think>\n\n\\boxed{12}"
TOKENIZER = build_tokenizer()
Templated = Callable[[str | dict], PreTrainedTokenizerBase]


@pytest.fixture
def templated(monkeypatch: pytest.MonkeyPatch) -> Templated:
    """The tiny tokenizer with another template."""

    def use(template: str | dict) -> PreTrainedTokenizerBase:
        monkeypatch.setattr(TOKENIZER, "chat_template", template)
        return TOKENIZER

    return use


def read_and_learned(dialogue: Dialogue, **template: object) -> list[tuple[str, str]]:
    """What the examples of a dialogue hold before the last learned turn, and what they learn."""
    pairs = []
    for ids, mask in encode_dialogue(TOKENIZER, dialogue, template).examples:
        learned = [token for token, kept in zip(ids, mask, strict=True) if kept]
        begin = len(mask) - mask[::-1].index(True)
        while begin and mask[begin - 1]:
            begin -= 1
        pairs.append((TOKENIZER.decode(ids[:begin]), TOKENIZER.decode(learned)))
    return pairs


@pytest.mark.parametrize("template", ALL.values(), ids=ALL)
@pytest.mark.parametrize("answer", ["\\boxed{12}", "\n\\boxed{12}", THOUGHT, "<think>\n\n</think>\n\n12", "a <b> c"])
def test_an_example_is_the_rollout_s_prompt_and_what_the_policy_would_write(
    templated: Templated, template: str, answer: str
) -> None:
    dialogue = chat("How many pens?", answer)
    tokenizer = templated(template)
    [(asked, learned)] = read_and_learned(dialogue)
    prompt = encode_prompt(tokenizer, dialogue.messages[:1])
    [(ids, _)] = encode_dialogue(tokenizer, dialogue).examples
    assert ids[: len(prompt)] == prompt
    assert asked == tokenizer.decode(prompt)
    assert learned.endswith(END)
    assert "".join(answer.split()) in "".join((asked + learned).split())


def test_a_thought_that_the_prompt_opens_is_not_opened_twice(templated: Templated) -> None:
    templated(R1_DISTILL)
    assert read_and_learned(chat("q", THOUGHT)) == [
        ("<s><User>q<Assistant><think>\n", "7 and 5\n</think>\n\n\\boxed{12}" + END)
    ]
    assert read_and_learned(chat("q", "<think>T</think>A"))[0][1] == "T</think>A" + END
    assert read_and_learned(chat("q", "T</think>A"))[0][1] == "T</think>A" + END
    assert read_and_learned(chat("q", "A"))[0][1] == "A" + END
    templated(R1)
    assert read_and_learned(chat("q", THOUGHT)) == [("<s><User>q<Assistant>", THOUGHT + END)]


@pytest.mark.parametrize("template", ALL.values(), ids=ALL)
def test_thoughts_that_stand_apart_are_learned_too(templated: Templated, template: str) -> None:
    templated(template)
    asked, said = {"role": "user", "content": "q"}, {"role": "assistant", "content": "\\boxed{12}"}
    apart = read_and_learned(Dialogue((asked, said | {"reasoning_content": "7 and 5"})))
    assert apart == read_and_learned(chat("q", THOUGHT))


def test_turns_that_are_shown_again_otherwise_become_examples_of_their_own(templated: Templated) -> None:
    templated(QWEN3)
    asked = "<|user|>user\nq<|end|>\n<|user|>assistant\n"
    assert read_and_learned(chat("q", THOUGHT, "r", "13")) == [
        (asked, THOUGHT + END),
        (asked + "\\boxed{12}<|end|>\n<|user|>user\nr<|end|>\n<|user|>assistant\n", "<think>\n\n</think>\n\n13" + END),
    ]
    templated(R1_DISTILL)
    assert [learned for _, learned in read_and_learned(chat("q", THOUGHT, "r", "13"))] == [
        THOUGHT.removeprefix("<think>\n") + END,
        "13" + END,
    ]


@pytest.mark.parametrize("template", [CHATML, GEMMA, DEAF, MISTRAL])
def test_turns_that_stay_as_they_were_are_one_example(templated: Templated, template: str) -> None:
    templated(template)
    [(_, learned)] = read_and_learned(chat("q", "a", "r", "b", "s", "c"))
    assert "".join(learned.split()) == f"a{END}b{END}c{END}"


@given(st.lists(st.text("ab 7<>\n", min_size=1, max_size=8).filter(str.strip), min_size=2, max_size=6), st.booleans())
@pytest.mark.parametrize("template", ALL.values(), ids=ALL)
def test_no_assistant_turn_is_lost(template: str, turns: list[str], thinks: bool) -> None:
    turns = turns[: len(turns) // 2 * 2]
    said = [f"<think>\n{turn}\n</think>\n\nso {turn}" if thinks else turn for turn in turns[1::2]]
    dialogue = chat(*[text for pair in zip(turns[::2], said, strict=True) for text in pair])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TOKENIZER, "chat_template", template)
        encoded = encode_dialogue(TOKENIZER, dialogue)
        learned = ""
        for ids, mask in encoded.examples:
            assert len(ids) == len(mask)
            learned += TOKENIZER.decode([token for token, kept in zip(ids, mask, strict=True) if kept])
        for text in said:
            _, found, learned = "".join(learned.split()).partition("".join(text.removeprefix("<think>").split()) + END)
            assert found


def test_a_bad_dialogue_does_not_stop_the_set(templated: Templated) -> None:
    tokenizer = templated(GEMMA)
    bad = Dialogue(({"role": "user", "content": "a"}, *chat("b", "c").messages))
    kept, report = encode_dialogues([chat("a", "b"), bad, chat("c", "d", "e", "f")], tokenizer, 99, "x")
    assert (len(kept), report.rows, len(report.refused)) == (2, 3, 1)
    assert "1 refused by the chat template: left out (first: the chat template refuses" in report.describe()[-1]
    with pytest.raises(UserError, match=r"no dialogue is left(.|\n)*must alternate"):
        encode_dialogues([bad], tokenizer, 99, "x")


def test_what_a_template_does_to_dialogues_is_said(templated: Templated) -> None:
    dialogues = [chat("q", THOUGHT, "r", "13"), chat("q", "12", system="Be brief.")]
    kept, report = encode_dialogues(dialogues, templated(QWEN3), 200, "x")
    assert (len(kept), report.rows) == (3, 3)
    assert report.notes == (
        "1 dialogues give 2 examples: the chat template shows earlier turns in another way than it showed them first",
    )
    kept, report = encode_dialogues(dialogues, templated(R1_DISTILL), 200, "x")
    assert [note.partition(":")[0] for note in report.notes] == [
        "1 dialogues give 2 examples",
        "3 assistant turns are learned as they are written, after the generation prompt",
    ]
    kept, report = encode_dialogues(dialogues, templated(GEMMA), 200, "x")
    assert [note[:50] for note in report.notes] == ["1 system messages stand at the beginning of the us"]


@pytest.mark.parametrize("template", ALL.values(), ids=ALL)
def test_a_system_message_is_always_shown(templated: Templated, template: str) -> None:
    tokenizer = templated(template)
    problems = [Problem("1", "1+1?", "2"), Problem("2", "2+2?", "4", system="Think in French.")]
    config = DataConfig(path="x", suffix="", system_prompt="Be brief.")
    kept, report = encode_problems(problems, tokenizer, config, "train")
    texts = [tokenizer.decode(ids) for _, ids in kept]
    assert ["Be brief." in text for text in texts] == [True, False]
    assert ["Think in French." in text for text in texts] == [False, True]
    folds = template in (GEMMA, DEAF)
    assert bool(report.notes) == folds
    if folds:
        assert "2 system messages stand at the beginning of the user's" in report.notes[0]
        assert "<|user|>user\nBe brief.\n\n1+1?<|end|>" in texts[0]


def test_a_system_message_without_a_question_cannot_be_moved(templated: Templated) -> None:
    with pytest.raises(UserError, match=r"refuses the roles \['system'\]: System role not supported"):
        encode_prompt(templated(GEMMA), [{"role": "system", "content": "Be brief."}])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0].content", "not valid Jinja: line 1"),
        ("{{ 1 + messages[0].content }}", r"refuses the roles \['user'\]: TypeError"),
        ("{{ unknown.field }}", r"refuses the roles \['user'\]: 'unknown' is undefined"),
    ],
)
def test_a_template_that_does_not_work_is_named(templated: Templated, template: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        encode_prompt(templated(template), [{"role": "user", "content": "q"}])


def test_arguments_reach_prompts_and_examples(templated: Templated) -> None:
    tokenizer = templated(QWEN3)
    config = DataConfig(path="x", suffix="", template_arguments={"enable_thinking": False})
    [(_, ids)], _ = encode_problems([Problem("1", "q", "2")], tokenizer, config, "train")
    assert tokenizer.decode(ids).endswith("assistant\n<think>\n\n</think>\n\n")
    [(asked, learned)] = read_and_learned(chat("q", "12"), enable_thinking=False)
    assert (asked, learned) == (tokenizer.decode(ids), "12" + END)


@pytest.mark.parametrize("template", ALL.values(), ids=ALL)
def test_a_template_that_writes_the_date_is_known(templated: Templated, template: str) -> None:
    assert reads_clock(templated(template), {}) == (template == LLAMA32)
    assert not reads_clock(templated(template), {"date_string": "27 Nov 2026"})


@pytest.fixture
def saved(templated: Templated, tmp_path: Path) -> Callable[[str | dict], str]:
    """A folder with the tiny tokenizer and another template."""

    def save(template: str | dict) -> str:
        templated(template).save_pretrained(tmp_path)
        return str(tmp_path)

    return save


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"enable_thinkng": False}, r"enable_thinkng: the chat template of .* did you mean 'enable_thinking'\?"),
        ({"messages": []}, "template_arguments.messages: the trainer itself sets messages"),
        ({"add_generation_prompt": False}, "the trainer itself sets add_generation_prompt"),
        ({"tokenize": True}, "the trainer itself sets tokenize"),
        ({"chat_template": "x"}, "the trainer itself sets chat_template"),
        ({"tools": []}, "has no variable 'tools'"),
    ],
)
def test_arguments_that_the_template_does_not_read_are_refused(
    saved: Callable[[str], str], arguments: dict, message: str
) -> None:
    folder = saved(QWEN3)
    load_tokenizer(folder, TemplateConfig(template_arguments={"enable_thinking": True}))
    with pytest.raises(UserError, match=message):
        load_tokenizer(folder, SftDataConfig(path="x", template_arguments=arguments))


def test_one_of_several_templates_is_named(saved: Callable[[str | dict], str]) -> None:
    folder = saved({"think": QWEN3_THINKING, "plain": CHATML})
    with pytest.raises(UserError, match=r"templates plain, think, and none of them is the default: name one in data\."):
        load_tokenizer(folder, DataConfig(path="x"))
    with pytest.raises(
        UserError, match=r"template_name='thnk', but the chat templates of .* are plain, think: name one of"
    ):
        load_tokenizer(folder, DataConfig(path="x", template_name="thnk"))
    for name, ending in (("think", "<think>\n"), ("plain", "assistant\n")):
        config = DataConfig(path="x", template_name=name)
        tokenizer = load_tokenizer(folder, config)
        ids = encode_prompt(tokenizer, [{"role": "user", "content": "q"}], config.template)
        assert tokenizer.decode(ids).endswith(ending)


def test_a_default_template_needs_no_name_and_a_single_one_has_none(saved: Callable[[str | dict], str]) -> None:
    tokenizer = load_tokenizer(saved({"default": CHATML, "tool_use": QWEN3}), DataConfig(path="x"))
    assert tokenizer.decode(encode_prompt(tokenizer, [{"role": "user", "content": "q"}])).endswith(
        "q<|end|>\n<|user|>assistant\n"
    )


def test_a_name_for_the_only_template_is_refused(saved: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match="single chat template without a name: remove the key"):
        load_tokenizer(saved(CHATML), DataConfig(path="x", template_name="default"))


@pytest.mark.parametrize("template", ALL.values(), ids=ALL)
def test_rendering_and_encoding_is_what_transformers_does(templated: Templated, template: str) -> None:
    tokenizer = templated(template)
    messages = [{"role": "user", "content": "How many pens?\n"}]
    whole = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert encode_prompt(tokenizer, messages) == tuple(whole)
