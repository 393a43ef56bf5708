"""The sync against servers that speak vLLM's routes and run its workers' receiving code, in processes of their own."""

from __future__ import annotations

import multiprocessing.forkserver
import os
import signal
import threading
from contextlib import closing
from pathlib import Path
from time import monotonic

import pytest
import torch
from one_rank import CONFIG, Tensors, assert_holds
from receiving_fleet import Fleet

from fastsvs import distributed
from fastsvs.errors import UserError
from fastsvs.sync import BroadcastSync, WeightSyncError
from fastsvs.sync.transports import TransportName


@pytest.fixture
def source() -> Tensors:
    distributed.initialize()
    return Tensors()


@pytest.mark.parametrize("transport", ["broadcast", "ipc"])
def test_all_workers_of_all_servers_get_every_version_once(
    transport: TransportName, source: Tensors, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"verify": True})
    with (
        closing(Fleet(1, 2, kind=transport)) as fleet,
        closing(BroadcastSync(source, fleet, config, transport)) as sync,
    ):
        sync.publish(1)
        assert_holds(fleet, source, tmp_path)
        source.train()
        sync.publish(2)
        sync.publish(2)
        assert_holds(fleet, source, tmp_path)
        update = [
            "/pause?mode=keep&clear_cache=true",
            "/start_weight_update",
            "/update_weights",
            "/finish_weight_update",
            "/resume",
        ]
        assert fleet.calls("server 1") == ["/init_weight_transfer_engine", *update, *update]
        assert fleet.version("server 0") == fleet.version("server 1") == "2"
        assert fleet.loaded == {"server 0": 2, "server 1": 2}
        metrics = sync.metrics()
        assert metrics["sync/bytes"] == sum(value.nbytes for value in source.values.values())
        assert metrics["sync/servers"] == 2
        assert metrics["sync/retries"] == 0


@pytest.mark.parametrize("workers", [(2,), (1, 1)])
def test_a_single_rank_sends_changes_to_a_single_server(
    workers: tuple[int, ...], source: Tensors, tmp_path: Path
) -> None:
    """A single rank would send them to several servers several times, and broadcasts the whole."""
    config = CONFIG.model_copy(update={"verify": True, "sparse": "always"})
    with closing(Fleet(*workers)) as fleet, closing(BroadcastSync(source, fleet, config)) as sync:
        for version in (1, 2):
            source.values["layer.1"] += version
            sync.publish(version)
            for name, count in fleet.workers.items():
                for rank, tensors in enumerate(fleet.tensors(name, tmp_path)):
                    blocks = source.weight_blocks().served(count, rank)
                    assert all(torch.equal(b.of(tensors[n]), b.of(source.values[n])) for n, b in blocks.items())
        changed = source.values["layer.1"].numel() / sum(value.numel() for value in source.values.values())
        single = len(workers) == 1
        assert sync.metrics().get("sync/changed") == (pytest.approx(changed, rel=0.05) if single else None)


def test_a_restarted_server_gets_the_weights_alone(source: Tensors, tmp_path: Path) -> None:
    with closing(Fleet(1, 1)) as fleet, closing(BroadcastSync(source, fleet, CONFIG)) as sync:
        sync.publish(1)
        calls = fleet.calls("server 0")
        fleet.restart("server 1")
        sync.publish(1)
        assert_holds(fleet, source, tmp_path)
        assert fleet.calls("server 0") == calls
        assert sync.metrics()["sync/servers"] == 1
        source.train()
        sync.publish(2)
        assert_holds(fleet, source, tmp_path)


@pytest.mark.parametrize(("transport", "staged"), [("broadcast", False), ("broadcast", True), ("ipc", False)])
@pytest.mark.parametrize("fault", ["die", "stall"])
def test_a_server_lost_amid_the_broadcast_is_replaced(
    fault: str, transport: TransportName, staged: bool, source: Tensors, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"timeout_seconds": 2.0})
    with (
        closing(Fleet(2, 1, kind=transport)) as fleet,
        closing(BroadcastSync(source, fleet, config, transport, staged=staged)) as sync,
    ):
        sync.publish(1)
        source.train()
        fleet.misbehave("server 1", fault)
        sync.publish(2)
        assert_holds(fleet, source, tmp_path)
        assert [name for name, _ in fleet.failures] == ["server 1"], "the other one is alive and well"
        assert sync.metrics()["sync/retries"] == 1
        assert fleet.loaded == {"server 0": 2, "server 1": 2}


def test_a_stopped_server_does_not_hold_the_trainer_up(source: Tensors, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"timeout_seconds": 2.0})
    with closing(Fleet(1, 1)) as fleet, closing(BroadcastSync(source, fleet, config)) as sync:
        sync.publish(1)
        source.train()
        os.kill(fleet.processes["server 0"].pid, signal.SIGSTOP)
        begin = monotonic()
        sync.publish(2)
        assert monotonic() - begin < 60
        assert_holds(fleet, source, tmp_path)
        assert [name for name, _ in fleet.failures] == ["server 0"]


def test_a_server_that_never_comes_back_ends_in_a_clear_error(source: Tensors) -> None:
    config = CONFIG.model_copy(update={"attempts": 2, "timeout_seconds": 5.0})
    with closing(Fleet(1, 1)) as fleet, closing(BroadcastSync(source, fleet, config)) as sync:
        fleet.report_failure = lambda endpoint, reason: fleet.failures.append((endpoint.name, reason))  # type: ignore[method-assign]
        fleet.stop("server 1")
        with pytest.raises(WeightSyncError, match=r"version 1 did not reach .*server 1: .*refused"):
            sync.publish(1)
        assert [name for name, _ in fleet.failures] == ["server 1"] * 2
        assert not fleet.loaded


def test_tensors_that_a_server_has_no_place_for_are_named_and_nobody_is_restarted(source: Tensors) -> None:
    config = CONFIG.model_copy(update={"attempts": 1})
    with closing(Fleet(1)) as fleet, closing(BroadcastSync(source, fleet, config)) as sync:
        fleet.misbehave("server 0", "refuse")
        with pytest.raises(WeightSyncError, match=r"no parameter embedding"):
            sync.publish(1)
        assert not fleet.failures
        fleet.misbehave("server 0", "no more")
        sync.publish(1)
        assert fleet.loaded == {"server 0": 1}


def test_a_server_that_others_left_in_the_middle_of_an_update_takes_the_next_one(
    source: Tensors, tmp_path: Path
) -> None:
    with closing(Fleet(1, 1)) as fleet, closing(BroadcastSync(source, fleet, CONFIG)) as sync:
        sync.publish(1)
        source.train()
        fleet.misbehave("server 1", "refuse_start")
        sync.publish(2)
        assert_holds(fleet, source, tmp_path)
        assert sync.metrics()["sync/retries"] == 1
        assert not fleet.failures


@pytest.mark.parametrize("transport", ["broadcast", "ipc"])
def test_a_tensor_that_arrives_changed_is_named(transport: TransportName, source: Tensors) -> None:
    config = CONFIG.model_copy(update={"verify": True})
    with (
        closing(Fleet(1, 1, kind=transport)) as fleet,
        closing(BroadcastSync(source, fleet, config, transport)) as sync,
    ):
        fleet.misbehave("server 0", "corrupt:layer.1")
        with pytest.raises(WeightSyncError, match=r"checksums differ .*: layer\.1$"):
            sync.publish(1)
        assert not fleet.loaded
        assert len(fleet.calls("server 0")) == 5, "no second attempt: it would hide what is broken"


def test_what_the_fleet_raises_comes_through(source: Tensors) -> None:
    class Lost(Fleet):
        def endpoints(self, timeout: float) -> list:
            raise UserError("no server is left")

    with closing(BroadcastSync(source, Lost(), CONFIG)) as sync, pytest.raises(UserError, match="no server is left"):
        sync.publish(1)


def test_nothing_is_left_behind(source: Tensors) -> None:
    multiprocessing.forkserver.ensure_running()
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with closing(Fleet(1, kind="ipc")) as fleet, closing(BroadcastSync(source, fleet, CONFIG, "ipc")) as sync:
        sync.publish(1)
    del sync, fleet
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) <= files + 2
