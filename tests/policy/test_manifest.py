"""Checkpoints that a hand has edited: refused by name, with a way out, and the policy stays as it was."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_cases import assert_same, build, update, weights
from policy_cases import save_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastsvs.errors import UserError
from fastsvs.policy import Policy, checkpoint

PART = "rank_00000.safetensors"
NORM = "decoder.final_layernorm.weight/0"
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    policy = build(save_model("qwen2-tied", tmp_path_factory.mktemp("model")), "fp32")
    update(policy, 0)
    return policy


@pytest.fixture(scope="module")
def pristine(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root") / "checkpoints"
    checkpoint.save(policy, root, 7, {"memory": {}}, keep=1)
    return root


@pytest.fixture
def saved(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "checkpoints") / "step_00000007"


def edit(path: Path, change: Callable[[Tree], object]) -> None:
    tree = json.loads((path / "manifest.json").read_text())
    change(tree)
    (path / "manifest.json").write_text(json.dumps(tree))


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of the only file, and record its new size and checksum."""
    tensors = load_file(path / PART)
    change(tensors)
    save_file(tensors, path / PART)
    sign(path)


def sign(path: Path) -> None:
    content = (path / PART).read_bytes()
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(path, lambda tree: tree["files"].update({PART: facts}))


def refuse(policy: Policy, path: Path) -> str:
    """What `load` and `open_masters` say alike; the policy stays as it was."""
    before = weights(policy)
    messages = set()
    for action in (
        lambda: checkpoint.load(policy, path),
        lambda: checkpoint.open_masters(path, policy.architecture)[1].read("model.norm.weight", None, 0, 0),
    ):
        with pytest.raises(UserError) as caught:
            action()
        messages.add(str(caught.value))
    assert_same(weights(policy), before)
    [message] = messages
    return message


MANIFESTS: list[tuple[Callable[[Tree], object], str]] = [
    *((lambda tree, key=key: tree.pop(key), f"{key}: Field required") for key in ("step", "state", "architecture")),
    *((lambda tree, key=key: tree.pop(key), f"{key}: Field required") for key in ("tensor_parallel", "updates")),
    (lambda tree: tree.pop("files"), "files: Field required"),
    (lambda tree: tree.pop("format"), "is not of format 1"),
    (lambda tree: tree.update(format=2), "is not of format 1"),
    (lambda tree: tree.update(format=True), "format: Input should be a valid integer"),
    (lambda tree: tree.update(more=1), "more: Extra inputs are not permitted"),
    (lambda tree: tree.update(step="7"), "step: Input should be a valid integer"),
    (lambda tree: tree.update(step=8), "says step 8, the name of the folder another one"),
    (lambda tree: tree.update(step=-7), "step: Input should be greater than or equal to 0"),
    (lambda tree: tree.update(state=[]), "state: Input should be a valid dictionary"),
    (lambda tree: tree.update(architecture=None), "architecture: Input should be a valid dictionary"),
    (lambda tree: tree.update(updates=1.5), "updates: Input should be a valid integer"),
    (lambda tree: tree.update(updates=10**400), "updates: Input should be"),
    (lambda tree: tree.update(updates=0), "exp_avg/decoder.final_layernorm.weight/0 has no place in a policy"),
    (lambda tree: tree.update(tensor_parallel=0), "tensor_parallel: Input should be greater than or equal to 1"),
    (lambda tree: tree.update(tensor_parallel=2), r"there are \d+ of \d+ values of master/"),
    (lambda tree: tree.update(tensor_parallel=10**9), "tensor_parallel=1000000000 does not divide this model"),
    (lambda tree: tree.update(files={}), "files: Dictionary should have at least 1 item"),
    (lambda tree: tree.update(files=[PART]), "files: Input should be a valid dictionary"),
    (lambda tree: tree["files"].update({PART: 5}), f"files.{PART}: Input should be a valid dictionary"),
    (lambda tree: tree["files"][PART].pop("bytes"), f"files.{PART}.bytes: Field required"),
    (lambda tree: tree["files"][PART].pop("sha256"), f"files.{PART}.sha256: Field required"),
    (lambda tree: tree["files"][PART].update(bytes="many"), f"files.{PART}.bytes: Input should be a valid integer"),
    (lambda tree: tree["files"][PART].update(bytes=5), f"{PART} has \\d+ bytes instead of 5"),
    (lambda tree: tree["files"][PART].update(sha256=5), f"files.{PART}.sha256: Input should be a valid string"),
    (lambda tree: tree["files"][PART].update(sha256="0" * 64), f"{PART} do not have the checksum"),
    (lambda tree: tree["files"].update({"../../secret": tree["files"].pop(PART)}), "String should match pattern"),
    (lambda tree: tree["files"].update({"/etc/passwd": tree["files"].pop(PART)}), "String should match pattern"),
    (lambda tree: tree["files"].update({"rank_00001.safetensors": tree["files"][PART]}), "rank_00001.* cannot be read"),
]


@pytest.mark.parametrize(("change", "message"), MANIFESTS, ids=[message for _, message in MANIFESTS])
def test_an_edited_manifest(policy: Policy, saved: Path, change: Callable[[Tree], object], message: str) -> None:
    edit(saved, change)
    said = refuse(policy, saved)
    assert said.startswith(f"checkpoint {saved} is damaged; move it away to start anew (there is no earlier one): ")
    assert re.search(message, said)


@pytest.mark.parametrize("text", ["", "{", "[1]", "5", "null", '"manifest"', '{"format": [1]}', "[" * 10**5])
def test_a_manifest_that_is_none(policy: Policy, saved: Path, text: str) -> None:
    (saved / "manifest.json").write_text(text)
    assert re.search(r"manifest.json is not (JSON|of format 1)", refuse(policy, saved))


def test_another_architecture(policy: Policy, saved: Path) -> None:
    edit(saved, lambda tree: tree["architecture"].update(layers="4"))
    assert "is of another model than model.path: it has layers 4 instead of 4" in refuse(policy, saved)


def piece(tensors: dict[str, Tensor], quantity: str = "master") -> str:
    return next(name for name in tensors if name.startswith(f"{quantity}/{NORM}/"))


PIECES: list[tuple[Callable[[dict[str, Tensor]], object], str]] = [
    (lambda t: t.update({n: v.half() for n, v in t.items()}), "is F16 of shape .*, it must be F32 in one dimension"),
    (lambda t: t.update({piece(t): t[piece(t)].double()}), f"master/{NORM}/0 is F64 of shape"),
    (lambda t: t.update({piece(t): t[piece(t)].view(2, -1).clone()}), f"master/{NORM}/0 is F32 of shape"),
    (lambda t: t.pop(piece(t)), f"there are 0 of \\d+ values of master/{NORM}"),
    (lambda t: t.pop(piece(t, "exp_avg_sq")), f"there are 0 of \\d+ values of exp_avg_sq/{NORM}"),
    (lambda t: t.update({piece(t): t[piece(t)][:-1].clone()}), f"there are \\d+ of \\d+ values of master/{NORM}"),
    (lambda t: t.update({f"master/{NORM}/5": t.pop(piece(t))}), f"master/{NORM}/5 begins at 5 instead of 0"),
    (lambda t: t.update({f"master/{NORM}/9": t[piece(t)].clone()}), f"master/{NORM}/9 begins at 9 instead of"),
    (lambda t: t.update({f"master/{NORM}/x": t.pop(piece(t))}), "which is no piece of a checkpoint"),
    (lambda t: t.update({"weight": torch.ones(3)}), "holds 'weight', which is no piece of a checkpoint"),
    (lambda t: t.update({"master/decoder.more/0/0": torch.ones(3)}), "master/decoder.more/0 has no place in a policy"),
]


@pytest.mark.parametrize(("change", "message"), PIECES, ids=[message for _, message in PIECES])
def test_other_tensors_under_a_right_checksum(
    policy: Policy, saved: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    rewrite(saved, change)
    assert re.search(message, refuse(policy, saved))


@pytest.mark.parametrize("content", [b"", b"hello", b"\5\0\0\0\0\0\0\0hello", b"version https://git-lfs"])
def test_another_file_under_a_right_checksum(policy: Policy, saved: Path, content: bytes) -> None:
    (saved / PART).write_bytes(content)
    sign(saved)
    assert "is damaged; move it away" in refuse(policy, saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(policy: Policy, saved: Path, value: float) -> None:
    rewrite(saved, lambda tensors: tensors[piece(tensors)].fill_(value))
    _, source = checkpoint.open_masters(saved, policy.architecture)
    with pytest.raises(UserError, match=f"values of master/{NORM[:-2]} that are NaN or infinite: take an earlier one"):
        source.read("model.norm.weight", None, 0, 0)


def test_the_preflight_reads_manifest_and_sizes_alone(policy: Policy, saved: Path) -> None:
    checkpoint.check(saved, policy.architecture)
    content = bytearray((saved / PART).read_bytes())
    content[-1] ^= 1
    (saved / PART).write_bytes(content)
    checkpoint.check(saved, policy.architecture)
    (saved / PART).write_bytes(content[:-1])
    with pytest.raises(UserError, match=rf"is damaged; move it away to start anew.*{PART} has \d+ bytes instead of"):
        checkpoint.check(saved, policy.architecture)
    edit(saved, lambda tree: tree["architecture"].update(layers=5))
    sign(saved)
    with pytest.raises(UserError, match=r"is of another model than model\.path: it has layers 5 instead of 4"):
        checkpoint.check(saved, policy.architecture)
