"""The disk has room for what is saved, or is said to have none before anything of it is touched."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
from checkpoint_cases import build, update
from policy_cases import save_model
from policy_ranks import run_ranks

from fastsvs import distributed
from fastsvs.errors import UserError
from fastsvs.files import free_bytes, in_words
from fastsvs.policy import Degrees, Policy, checkpoint, checkpoint_folder, saver
from fastsvs.policy.checkpoint import Saver, state_bytes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("qwen2-tied", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def policy(model: Path) -> Policy:
    policy = build(model)
    update(policy, 0)
    return policy


def leave(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    """Have the disk say that so many bytes are free."""
    for module in (checkpoint_folder, saver):
        monkeypatch.setattr(module, "free_bytes", lambda folder: size)


def test_the_size_is_known_beforehand(policy: Policy, tmp_path: Path) -> None:
    kept = Saver(tmp_path, keep=1)
    kept.begin(policy, 1, {"plugins": {"pool": ["a problem"] * 1000}})
    kept.finish()
    [file] = tmp_path.rglob("*.safetensors")
    [manifest] = tmp_path.rglob("manifest.json")
    assert 0 <= kept._size - file.stat().st_size - manifest.stat().st_size < 200
    assert 0 < file.stat().st_size - state_bytes(policy.architecture, Degrees()) < 200 * 3 * 40  # headers


def test_a_save_without_room_touches_nothing(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Saver(tmp_path, keep=1)
    kept.begin(policy, 1, {})
    kept.finish()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    size = kept._size
    leave(monkeypatch, size - 1)
    with pytest.raises(UserError, match=r"step 2 cannot .*, earlier ones are as they were: No space left.*: it takes"):
        kept.begin(policy, 2, {})
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.*")} == before
    assert os.listdir(tmp_path) == ["step_00000001"]
    for enough in (size, None):  # None: a file system that does not tell
        leave(monkeypatch, enough)
        kept.begin(policy, 2, {})
        kept.finish()


def test_what_a_kill_left_is_removed_before_the_room_is_measured(policy: Policy, tmp_path: Path) -> None:
    abandoned = tmp_path / ".step_00000001.draft"
    abandoned.mkdir()
    (abandoned / "rank_00000.safetensors").write_bytes(bytes(100_000))
    assert checkpoint.abandoned_bytes(tmp_path) >= 100_000
    checkpoint.save(policy, tmp_path, 2, {}, keep=1)
    assert checkpoint.abandoned_bytes(tmp_path) == 0


def test_the_next_save_is_warned_of(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Saver(tmp_path, keep=1)
    kept.begin(policy, 1, {})
    kept._under_way[1].result()  # type: ignore[index]
    leave(monkeypatch, 10)
    with caplog.at_level(logging.WARNING):
        kept.check()
        kept.check()
    [record] = caplog.records
    assert record.getMessage() == (
        f"{tmp_path} has 10 bytes free, and the next checkpoint takes {in_words(kept._size)}: make room, or the run "
        "ends there"
    )


def refused_on_ranks(model: str, root: str) -> list[str]:
    """What a rank hears of a save for which rank 0 finds no room."""
    policy, kept = build(Path(model)), Saver(Path(root), keep=1)
    if distributed.is_main():
        checkpoint_folder.free_bytes = lambda folder: 10  # type: ignore[attr-defined]
    with pytest.raises(UserError) as caught:
        kept.begin(policy, 1, {})
    return [str(caught.value)]


def test_all_ranks_hear_of_it(model: Path, tmp_path: Path) -> None:
    [one], [other] = run_ranks(refused_on_ranks, 2, tmp_path, str(model), str(tmp_path / "root"))
    assert one == other
    assert "and 10 bytes are free" in one


def test_free_bytes_are_those_of_the_file_system(tmp_path: Path) -> None:
    free = free_bytes(tmp_path / "not" / "yet" / "there")
    assert free is not None
    assert abs(free - shutil.disk_usage(tmp_path).free) < 1 << 30


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3_758_096_384, "3.5 GiB"), (2**62, "4194304.0 TiB")],
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert in_words(size) == words
