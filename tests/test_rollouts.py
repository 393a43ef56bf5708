"""Work on an engine that the main rank drives: what the other ranks do meanwhile, in real processes over gloo."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from fastsvs import distributed
from fastsvs.algorithms import Batch
from fastsvs.errors import EngineFailure, UserError
from fastsvs.rollout import Inference
from fastsvs.rollout.driver import Rollouts
from fastsvs.selfplay import Experience
from fastsvs.training.experience import Made, share


class Servers:
    """An engine of which only its health matters here."""

    collective = False

    def __init__(self) -> None:
        self.restarted = threading.Event()
        self.fault: Exception | None = None

    def stale(self) -> bool:
        if self.fault:
            raise self.fault
        return self.restarted.is_set()


class Weights:
    """Publishing counts, and gives a restarted server its weights."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.published: list[int] = []

    def publish(self, version: int) -> None:
        dist.barrier()
        self.published.append(version)
        self.servers.restarted.clear()


def made(*, experts: bool) -> Made:
    batch = Batch(
        prompt_ids=[np.arange(5), np.arange(5), np.array([7])],
        response_ids=[np.array([1, 2, 3]), np.array([2**31 - 1]), np.array([9, 8])],
        kinds=["original", "original", "variant"],
        groups=torch.tensor([0, 0, 1]),
        rewards=torch.tensor([1.0, 0.0, 1.0]),
        advantages=torch.zeros(6),  # they are found later, on every rank
        rollout_logprobs=torch.linspace(-7, 0, 6),
        penalties=torch.tensor([0.0, -0.5, 0.0]),
        # Of all tokens of prompt and response but the last.
        experts=[np.full((n, 2, 4), n, np.int16) for n in (7, 5, 2)] if experts else None,
        watched=[("000000", 0), ("000000", 1), None],
    )
    return Made(Experience([], {}), batch, plugin_state={})


def plainly(value: Any) -> Any:
    """Batches compared by their bits."""
    if isinstance(value, Batch):
        fields = (value.groups, value.rewards, value.advantages, value.rollout_logprobs, value.penalties)
        arrays = (value.prompt_ids, value.response_ids, value.experts or [])
        ids = [[(row.dtype, row.tolist()) for row in rows] for rows in arrays]
        return [ids, list(value.kinds), value.watched, [(tensor.dtype, tensor.tolist()) for tensor in fields]]
    return value


def waits_longer_than_the_timeout(servers: Servers, weights: Weights, rollouts: Rollouts) -> Any:
    running = rollouts.start(lambda engine, cancelled: time.sleep(5) or "done")
    return running.result(version=3), weights.published


def _shares(experts: bool) -> Callable[..., Any]:
    def scenario(servers: Servers, weights: Weights, rollouts: Rollouts) -> Any:
        result = rollouts.start(lambda engine, cancelled: made(experts=experts)).result(version=0)
        return result is not None, plainly(share(result, servers))

    return scenario


def refreshes_a_restarted_server(servers: Servers, weights: Weights, rollouts: Rollouts) -> Any:
    def work(engine: Inference, cancelled: Callable[[], bool]) -> str:
        servers.restarted.set()
        while servers.restarted.is_set():
            time.sleep(0.01)
        return "done"

    return rollouts.start(work).result(version=7), weights.published


def works_beside_the_ranks_own_collectives(servers: Servers, weights: Weights, rollouts: Rollouts) -> Any:
    go_on = threading.Event()
    running = rollouts.start(lambda engine, cancelled: go_on.wait(20))
    total = torch.ones(1)
    dist.all_reduce(total)
    over = running.over()
    go_on.set()
    running.wait(version=1)
    return total.item(), over, running.result(version=1)


def _raises(error: Exception) -> Callable[..., Any]:
    def scenario(servers: Servers, weights: Weights, rollouts: Rollouts) -> Any:
        def work(engine: Inference, cancelled: Callable[[], bool]) -> None:
            raise error

        with pytest.raises(Exception, match="too often") as caught:
            rollouts.start(work).result(version=0)
        return type(caught.value).__name__, str(caught.value)

    return scenario


def servers_fail_for_good(servers: Servers, weights: Weights, rollouts: Rollouts) -> Any:
    servers.fault = EngineFailure("server 1 failed too often")
    running = rollouts.start(_until)
    with pytest.raises(EngineFailure, match="too often") as caught:
        running.wait(version=0)
    rollouts.close()
    return str(caught.value), distributed.rank() != 0 or running.over()


def _until(engine: Inference, cancelled: Callable[[], bool]) -> None:
    while not cancelled():
        time.sleep(0.01)
    raise CancelledError


SCENARIOS = {
    "waits": (waits_longer_than_the_timeout, [("done", []), (None, [])]),
    "shares": (_shares(experts=False), [(main, plainly(made(experts=False).batch)) for main in (True, False)]),
    "shares experts": (_shares(experts=True), [(main, plainly(made(experts=True).batch)) for main in (True, False)]),
    "refreshes": (refreshes_a_restarted_server, [("done", [7]), (None, [7])]),
    "overlaps": (works_beside_the_ranks_own_collectives, [(2.0, False, True), (2.0, False, None)]),
    "user": (_raises(UserError("it failed too often")), [("EngineFailure", "it failed too often")] * 2),
    "bug": (
        _raises(KeyError("too often")),
        [("RuntimeError", "the main rank's rollouts failed: KeyError: 'too often'")] * 2,
    ),
    "servers": (servers_fail_for_good, [("server 1 failed too often", True)] * 2),
}


def play_all(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=4)
    )
    for name, (scenario, _) in SCENARIOS.items():
        servers = Servers()
        weights = Weights(servers)
        rollouts = Rollouts(servers, weights, timeout_seconds=4)
        Path(folder, f"{name}.{rank}").write_text(repr(scenario(servers, weights, rollouts)))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Path:
    """What two processes saw in each scenario."""
    folder = tmp_path_factory.mktemp("rollouts")
    torch.multiprocessing.start_processes(play_all, (str(folder),), nprocs=2, start_method="forkserver")
    return folder


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_ranks(played: Path, name: str) -> None:
    seen = [(played / f"{name}.{rank}").read_text() for rank in (0, 1)]
    assert seen == [repr(expected) for expected in SCENARIOS[name][1]]


def test_a_collective_engine_has_one_piece_of_work_at_a_time() -> None:
    servers = Servers()
    servers.collective = True
    rollouts = Rollouts(servers, Weights(servers), timeout_seconds=60)
    rollouts.start(_until)
    with pytest.raises(ValueError, match="still at work"):
        rollouts.start(_until)


def test_close_ends_every_piece_of_work() -> None:
    rollouts = Rollouts(Servers(), Weights(Servers()), timeout_seconds=60)
    running = [rollouts.start(_until) for _ in range(3)]
    assert not any(one.over() for one in running)
    rollouts.close()
    assert all(one.over() for one in running)


def test_a_collective_engine_works_when_the_result_is_asked_for() -> None:
    servers = Servers()
    servers.collective = True
    rollouts = Rollouts(servers, Weights(servers), timeout_seconds=60)
    done = []
    running = rollouts.start(lambda engine, cancelled: done.append("worked") or 5)
    assert done == []
    assert running.result(version=0) == running.result(version=0) == 5
    assert done == ["worked"]


def test_idle_share_is_the_time_without_work() -> None:
    rollouts = Rollouts(Servers(), Weights(Servers()), timeout_seconds=60)
    rollouts.start(lambda engine, cancelled: time.sleep(0.2)).wait(version=0)
    assert 0 < rollouts.idle_share() < 1
    assert rollouts.idle_share() == 1


def test_idle_share_counts_work_that_is_under_way_and_two_pieces_once() -> None:
    rollouts = Rollouts(Servers(), Weights(Servers()), timeout_seconds=60)
    running = [rollouts.start(_until) for _ in range(2)]
    rollouts.idle_share()
    time.sleep(0.05)
    assert rollouts.idle_share() == pytest.approx(0)
    rollouts.close()
    assert all(one.over() for one in running)
    rollouts.idle_share()
    assert rollouts.idle_share() == 1
