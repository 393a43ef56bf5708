"""The process group for weights: the first operation, in which NCCL connects and would wait for ever, and the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore, ProcessGroupGloo

from fastsvs.sync.group import Group, connect, first_operation, serve_store
from fastsvs.sync.messages import settle

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


@pytest.mark.parametrize(
    "begin", [lambda g, t: g.broadcast(t), lambda g, t: g.send(t, 1), lambda g, t: g.receive(t, 1)]
)
def test_nothing_begins_in_a_group_that_was_left(begin: Callable[[Group, torch.Tensor], object]) -> None:
    store, groups = HashStore(), {}

    def join(rank: int) -> None:
        groups[rank] = Group(store, rank, 2, "127.0.0.1", 60, CPU)

    ranks = [threading.Thread(target=join, args=(rank,)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    under_way = begin(groups[0], torch.zeros(3))
    for _ in range(2):
        groups[0].abandon()
        with pytest.raises(ConnectionAbortedError, match="left the group"):
            begin(groups[0], torch.zeros(3))
    groups[1].abandon()
    del under_way


def test_an_operation_that_fails_because_the_group_was_given_up_says_so() -> None:
    class Failed:
        def is_completed(self) -> bool:
            return True

        def wait(self) -> None:
            raise RuntimeError("connection closed by peer")

    given_up: list[str] = []

    def check() -> None:
        if given_up:
            raise ConnectionAbortedError(given_up[0])

    with pytest.raises(RuntimeError, match="closed by peer"):
        settle([Failed()], check)
    given_up.append("worker 1: no space left")
    with pytest.raises(ConnectionAbortedError, match="no space left"):
        settle([Failed()], check)
