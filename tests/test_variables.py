"""Numbers in environment variables, and what reads them before a run begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastsvs import distributed, network
from fastsvs.config import RolloutConfig
from fastsvs.errors import UserError
from fastsvs.plan.engine import utilization
from fastsvs.rollout import cpu_cache_gib, read_nodes
from fastsvs.rollout.vllm.placement import check_servers
from fastsvs.variables import whole_number
from fastsvs.verify.limits import workers_of_machine

NONE = ["", "many", "1.5", "0x2", "-1"]
"""Values that are no whole number of at least 0."""


@pytest.mark.parametrize("said", NONE)
def test_what_is_no_whole_number_is_refused_by_its_name(said: str) -> None:
    with pytest.raises(UserError, match=r"RANK=.*whole number of at least 0"):
        whole_number("RANK", 0, environment={"RANK": said})


def test_a_number_or_the_default_is_read() -> None:
    assert whole_number("RANK", 7, environment={}) == 7
    assert whole_number("RANK", 7, environment={"RANK": " 3 "}) == 3
    with pytest.raises(UserError, match="at least 1"):
        whole_number("WORLD_SIZE", 1, least=1, environment={"WORLD_SIZE": "0"})


READERS: dict[str, list[Callable[[], object]]] = {
    "WORLD_SIZE": [distributed.launched_world_size],
    "LOCAL_WORLD_SIZE": [workers_of_machine, lambda: read_nodes(RolloutConfig())],
    "GROUP_RANK": [lambda: read_nodes(RolloutConfig())],
    "VLLM_CPU_KVCACHE_SPACE": [lambda: check_servers(RolloutConfig(engine="vllm"), here=True)],
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("said", NONE)
def test_who_reads_a_variable_says_what_is_wrong_with_it(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, said)
    for read in READERS[name]:
        with pytest.raises(UserError, match=f"{name}="):
            read()


def test_the_cache_of_a_server_is_at_least_a_gibibyte() -> None:
    assert cpu_cache_gib({}) == 1
    assert cpu_cache_gib({"VLLM_CPU_KVCACHE_SPACE": "40"}) == 40
    with pytest.raises(UserError, match="at least 1"):
        cpu_cache_gib({"VLLM_CPU_KVCACHE_SPACE": "0"})


def test_the_place_in_a_job_is_read_or_refused() -> None:
    place = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "main"}
    assert network.read_place(place) == network.Place(1, 2, True, "main")
    assert network.read_place({}) is None
    with pytest.raises(UserError, match="LOCAL_RANK='first'"):
        network.read_place(place | {"LOCAL_RANK": "first"})


@pytest.mark.parametrize("share", ["most", 0, 1.5, "nan"])
def test_a_share_of_the_memory_is_a_number_up_to_1(share: str | float) -> None:
    with pytest.raises(UserError, match="gpu-memory-utilization"):
        utilization(RolloutConfig(server={"arguments": {"gpu-memory-utilization": share}}))
