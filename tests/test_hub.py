"""A hub that does not answer: said once, in seconds, and the cache is taken."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

import pytest
from forking import FORKS
from whole_runs import ROOT

from fastsvs import hub
from fastsvs.cli import main


def ended(arguments: list[str], address: str, cache: str, log: str) -> None:
    """Run a command in this process, which may ask the hub at `address`."""
    from huggingface_hub import constants

    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["HF_ENDPOINT"] = constants.ENDPOINT = address
    constants.HF_HUB_CACHE = cache
    del os.environ["HF_HUB_OFFLINE"]
    constants.HF_HUB_OFFLINE = False
    sys.exit(main(arguments))


def run(arguments: list[str], address: str, folder: Path) -> tuple[int, str]:
    process = FORKS.Process(target=ended, args=(arguments, address, str(folder), str(folder / "log")))
    process.start()
    process.join(120)
    return process.exitcode, (folder / "log").read_text()


@pytest.mark.parametrize(
    "change",
    ["model.path=Qwen/Qwen2.5-0.5B", "data.path=openai/gsm8k:main", "model.tokenizer=Qwen/Qwen2.5-0.5B"],
)
def test_a_hub_that_is_closed_is_asked_once(change: str, tmp_path: Path) -> None:
    config = str(ROOT / "configs" / "tiny_svs.yaml")
    status, said = run(
        ["train", config, change, f"run.dir={tmp_path}/run", "--dry-run"], "http://127.0.0.1:9", tmp_path
    )
    assert status == 2
    assert said.count("does not answer") == 1
    assert "Retry" not in said
    assert said.count("fastsvs: error:") == 1


@pytest.mark.parametrize("path", ["/models/none", "./none", "../none", "models/qwen/none"])
def test_a_path_that_is_no_id_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(hub, "_settle", lambda: pytest.fail("the hub is asked"))
    hub.settle(path)


@pytest.mark.parametrize("path", ["Qwen/Qwen2.5-0.5B", "gpt2", "openai/gsm8k:main", "HuggingFaceTB/SmolLM2-135M"])
def test_an_id_is_asked_for(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(hub, "_settle", lambda: asked.append(True))
    hub.settle(path)
    assert asked


def test_a_hub_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        assert hub.silence(f"http://127.0.0.1:{deaf.getsockname()[1]}") is not None


def test_what_is_on_this_machine_asks_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "_settle", lambda: pytest.fail("the hub was asked"))
    hub.settle(str(tmp_path))


def test_an_error_of_the_hub_is_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            client, _ = server.accept()
            client.recv(4096)
            client.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            client.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        assert hub.silence(f"http://127.0.0.1:{server.getsockname()[1]}") is None
        thread.join(10)
