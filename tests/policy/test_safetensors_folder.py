"""Weights that cannot be read or are another model's: one message with file, fault and cure, before a value is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from policy_cases import CONFIGS, save_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.qwen3_5 import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from fastsvs.architecture import read_architecture
from fastsvs.errors import UserError
from fastsvs.policy.mapping import hf_shapes
from fastsvs.policy.safetensors_folder import SafetensorsWeights, check_local_weights

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4981640\n"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
NORM, BIG = "model.norm.weight", "model.embed_tokens.weight"


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    return save_model("qwen2-tied", tmp_path / "tied")


@pytest.fixture
def sharded(tied: Path) -> Path:
    """The model in two files with an index."""
    tensors = load_file(tied / "model.safetensors")
    (tied / "model.safetensors").unlink()
    names = list(tensors)
    parts = dict(zip(SHARDS, (names[::2], names[1::2]), strict=True))
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, tied / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tied / "model.safetensors.index.json").write_text(json.dumps(index))
    return tied


def check(folder: Path) -> None:
    check_local_weights(str(folder), read_architecture(AutoConfig.from_pretrained(folder)))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def cut(folder: Path, size: int) -> None:
    os.truncate(folder / "model.safetensors", size)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").write_text(POINTER), r"git LFS pointer.*run `git lfs pull` in"),
        (lambda f: cut(f, 0), r"\(0 bytes\) is no whole safetensors file: .*download the model again"),
        (lambda f: cut(f, 5), r"\(5 bytes\) is no whole safetensors file"),
        (lambda f: cut(f, 20_000), r"\(20000 bytes\) is no whole safetensors file: .*not fully covered"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\5\0\0\0\0\0\0\0hello"), "is no whole safetensors file"),
        (pickled, r"other formats only \(pytorch_model.bin\), and safetensors are needed: convert them"),
        (lambda f: rewrite(f, lambda t: t.pop(NORM)), f"{NORM} is missing"),
        (lambda f: rewrite(f, lambda t: t.update({"visual.x": t[NORM].clone()})), "visual.x has no place in this"),
        (lambda f: rewrite(f, lambda t: t.update({NORM: torch.ones(3)})), rf"{NORM} has shape \[3\], config.json"),
        (
            lambda f: rewrite(f, lambda t: t.update({NORM: t[NORM].to(torch.float8_e4m3fn)})),
            f"{NORM} is stored as F8_E4M3, which is not one of BF16, F16, F32, F64",
        ),
        (
            lambda f: rewrite(f, lambda t: t.update({NORM: t[NORM].to(torch.int8)})),
            f"{NORM} is stored as I8, which is not one of",
        ),
        (
            lambda f: rewrite(f, lambda t: t.update({"lm_head.weight": t[BIG] + 1})),
            rf"tie_word_embeddings=true, but lm_head.weight in model.safetensors is not {BIG}: set tie_word_embeddings",
        ),
        (
            lambda f: rewrite(f, lambda t: t.update({"lm_head.weight": t[BIG][:-1].clone()})),
            "but lm_head.weight in model.safetensors is not",
        ),
    ],
)
def test_what_is_wrong_with_a_single_file(tied: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(tied)
    with pytest.raises(UserError, match=message):
        check(tied)


def reindex(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / SHARDS[1]).unlink(), rf"names files that are not there \({SHARDS[1]}\)"),
        (lambda f: (f / SHARDS[0]).write_text(POINTER), rf"{SHARDS[0]} is a git LFS pointer"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json cannot be read as JSON"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[" * 10**5), "index.json cannot be read as JSON"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "index.json has no weight_map"),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": 5}}'), "has no weight_map"),
        (lambda f: reindex(f, lambda files: files.update({NORM: "../a.safetensors"})), "names files outside its"),
        (lambda f: reindex(f, lambda files: files.pop(NORM)), f"{NORM} is missing"),
        (
            lambda f: reindex(f, lambda files: files.update(dict.fromkeys(files, SHARDS[0]))),
            r"names tensors that are not there \(.*; .* and \d+ more\)",
        ),
    ],
)
def test_what_is_wrong_with_an_index(sharded: Path, damage: Callable[[Path], object], message: str) -> None:
    check(sharded)
    damage(sharded)
    with pytest.raises(UserError, match=message):
        check(sharded)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_are_checked_as_they_are_read(tied: Path, value: float) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        tensors[BIG][70, 3] = value

    rewrite(tied, damage)
    check(tied)  # headers alone
    source = SafetensorsWeights(str(tied), read_architecture(AutoConfig.from_pretrained(tied)))
    assert source.read(BIG, 0, 0, 64).isfinite().all()
    with pytest.raises(UserError, match=rf"{BIG} in .*model.safetensors holds values that are NaN or infinite"):
        source.read(BIG, None, 0, 0)


def test_a_tied_output_weight_that_is_the_embedding_is_taken(tied: Path) -> None:
    rewrite(tied, lambda tensors: tensors.update({"lm_head.weight": tensors[BIG].clone()}))
    check(tied)


def test_what_is_not_here_is_left_to_the_run(tied: Path) -> None:
    architecture = read_architecture(AutoConfig.from_pretrained(tied))
    (tied / "model.safetensors").unlink()
    check(tied)
    check_local_weights("nobody/has-downloaded-this", architecture)
    check_local_weights("no name of the hub/at/all", architecture)
    with pytest.raises(UserError, match=r"no model.safetensors or .*model.initialize=random draws new weights"):
        SafetensorsWeights(str(tied), architecture)


def test_all_stored_dtypes_are_read(tied: Path) -> None:
    architecture = read_architecture(AutoConfig.from_pretrained(tied))
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        rewrite(tied, lambda tensors, dtype=dtype: tensors.update({n: t.to(dtype) for n, t in tensors.items()}))
        source = SafetensorsWeights(str(tied), architecture)
        assert {source.read(name, None, 0, 0).dtype for name in hf_shapes(architecture)} == {dtype}


def test_a_text_model_that_was_saved_out_of_one_with_vision_is_read(tmp_path: Path) -> None:
    text = CONFIGS["qwen3.5"]
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": text.hidden_size}
    seeing = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text.to_dict(), vision_config=vision))
    seeing.save_pretrained(tmp_path / "seeing")
    with pytest.raises(UserError, match=r"'qwen3_5' is not supported.*AutoModelForCausalLM loads its text model"):
        read_architecture(AutoConfig.from_pretrained(tmp_path / "seeing"))
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "seeing", dtype=torch.float32)
    alone.save_pretrained(tmp_path / "alone")
    architecture = read_architecture(AutoConfig.from_pretrained(tmp_path / "alone"))
    weights, expected = SafetensorsWeights(str(tmp_path / "alone"), architecture), alone.state_dict()
    for name in hf_shapes(architecture):
        assert torch.equal(weights.read(name, None, 0, 0), expected[name])
