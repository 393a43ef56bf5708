"""The first operation of a group, in which NCCL connects and would wait for ever."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore, ProcessGroupGloo

from fastsvs.sync.group import connect, serve_store

CPU = torch.device("cpu")


class Never:
    """A group whose other ranks do not come, as NCCL shows it: the first operation does not return."""

    def broadcast(self, _tensors: list[torch.Tensor], _options: dist.BroadcastOptions) -> None:
        threading.Event().wait()


class Broken:
    def broadcast(self, _tensors: list[torch.Tensor], _options: dist.BroadcastOptions) -> None:
        raise RuntimeError("unhandled system error")


def test_the_store_of_weights_listens_on_its_address_alone() -> None:
    store, port = serve_store("127.0.0.1", 5)
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    listening = {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}
    assert listening == {"0100007F"}  # 127.0.0.1, as the kernel writes it
    del store


def test_ranks_that_do_not_come_are_waited_for_no_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "=mgmt0")
    with pytest.raises(
        TimeoutError, match=r"trainer and 8 rollout worker\(s\) in time: .* over =mgmt0, and does the fire"
    ):
        connect(Never(), 9, CPU, 0.1, lambda: None)


def test_the_deadline_of_the_whole_update_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)

    def late() -> None:
        raise TimeoutError("the update took too long")

    with pytest.raises(TimeoutError, match="over the interface that NCCL chooses"):
        connect(Never(), 2, CPU, 60, late)


def test_a_server_that_fails_meanwhile_ends_the_wait() -> None:
    def failed() -> None:
        raise ConnectionAbortedError("server-1 is dead")

    with pytest.raises(ConnectionAbortedError, match="server-1"):
        connect(Never(), 2, CPU, 60, failed)


def test_what_nccl_says_is_told() -> None:
    with pytest.raises(RuntimeError, match="did not connect trainer and rollout workers: unhandled system error"):
        connect(Broken(), 2, CPU, 60, lambda: None)


def test_ranks_that_come_are_connected() -> None:
    store, groups = HashStore(), {}

    def join(rank: int) -> None:
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        groups[rank] = ProcessGroupGloo(store, rank, 2, options)
        connect(groups[rank], 2, CPU, 60, lambda: None)

    other = threading.Thread(target=join, args=(1,))
    other.start()
    join(0)
    other.join()
