"""Weights that wait at workers while their servers go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch
from one_rank import CONFIG, NAMES, Tensors, assert_holds
from receiving_fleet import Fleet
from torch import Tensor

from fastsvs import distributed
from fastsvs.blocks import Block
from fastsvs.buckets import TensorSpec, plan_buckets
from fastsvs.sync import BroadcastSync, WeightSyncError
from fastsvs.sync.arrivals import Arrival, Blocks
from fastsvs.sync.memory import Pool
from fastsvs.sync.moves import plan_moves
from fastsvs.sync.staging import Staging

CPU = torch.device("cpu")
SPECS = [TensorSpec("rows", (8, 6), torch.bfloat16), TensorSpec("columns", (6, 8), torch.float32)]


class Sent:
    """A group in which one rank sends a worker the second half of each tensor, counted from 0."""

    def receive(self, buffer: Tensor, sender: int) -> Sent:
        half = [torch.arange(24, dtype=spec.dtype) for spec in SPECS]
        buffer.copy_(torch.cat([values.view(torch.uint8) for values in half]))
        return self

    def is_completed(self) -> bool:
        return True

    def wait(self) -> None: ...


def blocks() -> Blocks:
    whole = {spec.name: Block.whole(spec.shape) for spec in SPECS}
    wanted = {"rows": whole["rows"].along(0, 4, 8), "columns": whole["columns"].along(1, 4, 8)}
    receiver = Blocks(Sent(), Pool(CPU), plan_moves(SPECS, [whole], [wanted]), None)  # type: ignore[arg-type]
    receiver.prepare(plan_buckets(SPECS, 1 << 20))
    return receiver


def staged(receiver: Blocks, lay_out: bool) -> tuple[Staging, list[Sequence[Tensor]]]:
    """Return a staging of all that comes, and the packets that it got."""
    done, packets = threading.Event(), []

    def arriving() -> Iterator[Arrival]:
        arrival = receiver.begin(0, lambda: None).complete(lambda: None)
        packets.append(arrival.buffers)
        yield arrival

    staging = Staging(1, arriving(), CPU, lay_out, done.set, lambda reason: None)
    assert done.wait(10)
    return staging, packets


@pytest.fixture
def source() -> Tensors:
    distributed.initialize()
    return Tensors()


def test_what_waits_is_what_is_loaded() -> None:
    receiver = blocks()
    receiver.trusted = True
    for lay_out in (True, False):
        staging, packets = staged(receiver, lay_out)
        for packet in packets[0]:
            packet.zero_()  # what is laid out by now does not change any more
        (arrival,) = staging.arrived(lambda: None)
        (bucket,) = plan_buckets(SPECS, 1 << 20)
        rows, columns = (tensor for _, tensor in bucket.views(arrival.lay_out()))
        half = torch.arange(24) if lay_out else torch.zeros(24)
        assert torch.equal(rows[4:].float(), half.view(4, 6).float())
        assert torch.equal(columns[:, 4:], half.view(6, 4).float())


def test_servers_go_on_until_all_weights_are_there(source: Tensors, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"verify": True})
    with closing(Fleet(1, 2)) as fleet, closing(BroadcastSync(source, fleet, config, staged=True)) as sync:
        sync.publish(1)
        source.train()
        sync.publish(2)
        assert_holds(fleet, source, tmp_path)
        swap = ["/pause?mode=keep&clear_cache=true", "/start_weight_update", "/update_weights"]
        update = ["/collective_rpc", *swap, "/finish_weight_update", "/resume"]
        assert fleet.calls("server 1") == ["/init_weight_transfer_engine", *update, *update]
        assert fleet.version("server 1") == "2"
        metrics = sync.metrics()
        assert metrics["sync/pause_seconds"] + metrics["sync/transfer_seconds"] <= metrics["sync/seconds"]


def test_servers_pause_when_the_last_worker_has_all_that_was_sent(source: Tensors, tmp_path: Path) -> None:
    with closing(Fleet(1, 1)) as fleet, closing(BroadcastSync(source, fleet, CONFIG, staged=True)) as sync:
        fleet.misbehave("server 1", "late")
        sync.publish(1)
        assert_holds(fleet, source, tmp_path)
        calls = fleet.calls("server 1")
        assert calls.index("staged") < calls.index("/pause?mode=keep&clear_cache=true")
        assert fleet.calls("server 0")[2] == "/pause?mode=keep&clear_cache=true", "it went on until then"


def test_a_server_that_loses_what_arrives_goes_on_with_the_weights_that_it_has(source: Tensors, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"attempts": 1})
    with closing(Fleet(1, 1)) as fleet, closing(BroadcastSync(source, fleet, config, staged=True)) as sync:
        sync.publish(1)
        before = fleet.tensors("server 0", tmp_path)
        calls = {name: len(fleet.calls(name)) for name in fleet.running}
        source.train()
        fleet.misbehave("server 0", "leave")
        with pytest.raises(WeightSyncError, match=r"worker 1: ConnectionAbortedError: this rank has left the group"):
            sync.publish(2)
        for name, count in calls.items():
            assert "/pause?mode=keep&clear_cache=true" not in fleet.calls(name)[count:]
            assert fleet.version(name) == "1"
            (worker,) = fleet.tensors(name, tmp_path)
            assert all(torch.equal(worker[tensor], before[0][tensor]) for tensor in NAMES)
        assert not fleet.failures, "they are healthy"
        fleet.misbehave("server 0", "no more")
        sync.publish(2)
        assert_holds(fleet, source, tmp_path)


def test_a_tensor_that_arrives_changed_is_named_before_servers_that_go_on_load_it(source: Tensors) -> None:
    config = CONFIG.model_copy(update={"verify": True})
    with closing(Fleet(1, 1)) as fleet, closing(BroadcastSync(source, fleet, config, staged=True)) as sync:
        fleet.misbehave("server 0", "corrupt:layer.1")
        with pytest.raises(WeightSyncError, match=r"checksums differ .*: layer\.1"):
            sync.publish(1)
        assert all(fleet.calls(name)[-1] == "/collective_rpc" for name in fleet.running), "nobody was paused"
