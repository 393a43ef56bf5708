"""The committed tiny folder: made again bit for bit, within its size, and cheap in tokens."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fastsvs.data import encode_dialogue, tiny
from fastsvs.data.tiny.model import write_model_folder

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "models" / "tiny"
TOKENIZER = AutoTokenizer.from_pretrained(FOLDER)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_the_committed_tokenizer_is_made_again_bit_for_bit(tmp_path: Path, name: str) -> None:
    write_model_folder(tmp_path)
    assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def test_the_committed_configuration_is_made_again(tmp_path: Path) -> None:
    write_model_folder(tmp_path)
    made, committed = (AutoConfig.from_pretrained(folder).to_diff_dict() for folder in (tmp_path, FOLDER))
    assert made == committed


def test_the_model_has_one_to_two_million_parameters_within_five_megabytes() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(FOLDER))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 1_000_000 < parameters < 2_000_000
    assert 4 * parameters < 4_990_000


def test_tensor_parallelism_of_two_divides_the_shapes() -> None:
    config = AutoConfig.from_pretrained(FOLDER)
    assert config.vocab_size % 64 == 0
    assert len(TOKENIZER) <= config.vocab_size
    for size in (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size):
        assert size % 2 == 0


@given(st.text())
def test_any_text_decodes_to_itself_up_to_unicode_normalization(text: str) -> None:
    normalized = TOKENIZER.backend_tokenizer.normalizer.normalize_str(text)
    special = "|".join(map(re.escape, TOKENIZER.all_special_tokens))
    if not re.search(special, normalized):
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == normalized


def test_digits_stand_alone_and_sequences_are_short() -> None:
    assert TOKENIZER.tokenize("187*2") == ["1", "8", "7", "*", "2"]
    lengths = [
        len(encode_dialogue(TOKENIZER, dialogue).examples[0][0]) for dialogue in tiny.dialogues("tiny:sft", 1000)
    ]
    assert sum(lengths) / len(lengths) < 65
    assert max(lengths) < 120


def test_the_shipped_synthesis_template_is_the_one_that_the_model_is_taught() -> None:
    shipped = (REPOSITORY / "configs" / "tiny_synthesis.txt").read_text(encoding="utf-8")
    assert shipped == tiny.SYNTHESIS_TEMPLATE
