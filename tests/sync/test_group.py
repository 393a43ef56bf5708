"""The first operation of a group, in which NCCL connects and would wait for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore, ProcessGroupGloo

from fastsvs.sync.group import connect, first_operation, serve_store

CPU = torch.device("cpu")


class Never:
    """A group whose other ranks do not come, as NCCL shows it: the first operation does not return."""

    def broadcast(self, _tensors: list[torch.Tensor], _options: dist.BroadcastOptions) -> None:
        threading.Event().wait()


class Broken:
    def broadcast(self, _tensors: list[torch.Tensor], _options: dist.BroadcastOptions) -> None:
        raise RuntimeError("unhandled system error")


def operation(group: object) -> Callable[[], None]:
    return first_operation(group, 0, CPU, None)


def test_the_store_of_weights_listens_on_its_address_alone() -> None:
    store, port = serve_store("127.0.0.1", 5)
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    listening = {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}
    assert listening == {"0100007F"}  # 127.0.0.1, as the kernel writes it
    del store


def test_ranks_that_do_not_come_are_waited_for_no_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "=mgmt0")
    with pytest.raises(
        TimeoutError, match=r"the 9 ranks of trainer and rollout workers in time: .* over =mgmt0, and does the fire"
    ):
        connect(operation(Never()), 9, 0.1, lambda: None)


def test_the_deadline_of_the_whole_update_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)

    def late() -> None:
        raise TimeoutError("the update took too long")

    with pytest.raises(TimeoutError, match="over the interface that NCCL chooses"):
        connect(operation(Never()), 2, 60, late)


def test_a_server_that_fails_meanwhile_ends_the_wait() -> None:
    def failed() -> None:
        raise ConnectionAbortedError("server-1 is dead")

    with pytest.raises(ConnectionAbortedError, match="server-1"):
        connect(operation(Never()), 2, 60, failed)


def test_what_nccl_says_is_told() -> None:
    with pytest.raises(RuntimeError, match="did not connect trainer and rollout workers: unhandled system error"):
        connect(operation(Broken()), 2, 60, lambda: None)


@pytest.mark.parametrize("peers", [None, {0: [2, 3], 1: [2, 3], 2: [0, 1], 3: [0, 1]}])
def test_ranks_that_come_are_connected(peers: dict[int, list[int]] | None) -> None:
    """All with all, or two senders with two receivers each."""
    store, groups, connected = HashStore(), {}, []

    def join(rank: int) -> None:
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        groups[rank] = ProcessGroupGloo(store, rank, 4, options)
        connect(first_operation(groups[rank], rank, CPU, peers and peers[rank]), 4, 60, lambda: None)
        connected.append(rank)

    ranks = [threading.Thread(target=join, args=(rank,)) for rank in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert sorted(connected) == [0, 1, 2, 3]
