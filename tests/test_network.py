"""The interface over which nodes talk: real namespaces with two networks and Debian's /etc/hosts, where permitted."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from whole_runs import ROOT, environment

from fastsvs import distributed, network
from fastsvs.errors import UserError
from fastsvs.network import Interface, Place

TORCHRUN = {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "GROUP_RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "head"}


class Store(dict):
    """What the other node has put is there already."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self[key]


def test_this_machines_addresses_are_listed_with_their_interfaces() -> None:
    found = network.interfaces()
    assert {interface.address for interface in found if interface.name == "lo"} == {"127.0.0.1"}
    assert {interface.name for interface in found} <= {name for _, name in socket.if_nameindex()}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, Place(1, 2, True, "head")),
        ({"LOCAL_RANK": "3"}, Place(1, 2, False, "head")),
        ({"WORLD_SIZE": "8"}, None),
        ({"GROUP_RANK": None}, None),
    ],
)
def test_a_job_of_several_nodes_is_told_by_torchrun(changes: dict[str, str | None], place: Place | None) -> None:
    merged = {name: value for name, value in (TORCHRUN | changes).items() if value is not None}
    assert network.read_place(merged) == place


def on_a_host(monkeypatch: pytest.MonkeyPatch, routes: dict[str, str], known: list[Interface]) -> None:
    def towards(remote: str) -> str:
        if remote not in routes:
            raise OSError(f"no route to {remote}")
        return routes[remote]

    monkeypatch.setattr(network, "local_address", towards)
    monkeypatch.setattr(network, "interfaces", lambda: known)


KNOWN = [Interface("lo", "127.0.0.1"), Interface("mgmt", "192.168.0.1"), Interface("ib0", "10.0.0.1")]


def test_a_node_takes_the_interface_that_leads_to_the_main_node(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_host(monkeypatch, {"head": "10.0.0.1"}, KNOWN)
    store = Store()
    for leads in (False, True):
        place = Place(1, 2, leads, "head")
        network.announce_address(store, place)
        assert network.choose_interface(store, place) == Interface("ib0", "10.0.0.1")
    assert store == {"address/1": b"10.0.0.1"}


def test_a_main_node_whose_name_is_loopback_asks_where_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_host(monkeypatch, {"head": "127.0.1.1", "10.0.0.7": "10.0.0.1"}, KNOWN)
    store = Store({"address/1": b"10.0.0.7"})
    assert network.choose_interface(store, Place(0, 2, True, "head")).name == "ib0"


@pytest.mark.parametrize(
    ("routes", "told"),
    [({"head": "127.0.0.1", "127.0.0.1": "127.0.0.1"}, b"127.0.0.1"), ({}, b""), ({"head": "10.9.9.9"}, b"")],
    ids=["one host", "no IPv4 route", "an address of no interface"],
)
def test_what_is_not_known_is_left_to_gloo_and_nccl(
    monkeypatch: pytest.MonkeyPatch, routes: dict[str, str], told: bytes
) -> None:
    on_a_host(monkeypatch, routes, KNOWN)
    with pytest.raises(LookupError):
        network.choose_interface(Store({"address/1": told}), Place(0, 2, True, "head"))


def test_the_users_choice_stays() -> None:
    ib0 = Interface("ib0", "10.0.0.1")
    assert network.settings(ib0, {}) == {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "=ib0"}
    assert network.settings(ib0, {"NCCL_SOCKET_IFNAME": "eth"}) == {"GLOO_SOCKET_IFNAME": "ib0"}
    assert network.settings(ib0, {"NCCL_SOCKET_IFNAME": "eth", "GLOO_SOCKET_IFNAME": "eth0"}) == {}


JOB = """
import os
from fastsvs import distributed
from fastsvs.output import say
distributed.initialize(timeout_seconds=60)
say(f"gathered {distributed.gather(os.environ['GROUP_RANK'])} {os.environ.get('GLOO_SOCKET_IFNAME')}")
distributed.leave()
"""
HOSTS = "127.0.0.1 localhost\n127.0.1.1 {own}\n10.78.0.{other} {peer}\n"


@pytest.fixture
def two_hosts() -> Iterator[list[str]]:
    """Two network namespaces, the first host called head: a network that leads nowhere comes first in each, and the
    host's own name is 127.0.1.1 there. Their names."""
    names = [f"fsvs{uuid.uuid4().hex[:6]}{i}" for i in range(2)]
    hosts = ["head", "tail"]
    setup = [
        *(["ip", "netns", "add", name] for name in names),
        *(["ip", "-n", name, "link", "add", "a0", "type", "veth", "peer", "a1"] for name in names),
        ["ip", "link", "add", "data", "netns", names[0], "type", "veth", "peer", "data", "netns", names[1]],
        *(["ip", "-n", name, "addr", "add", f"192.168.7.{i + 1}/32", "dev", "a0"] for i, name in enumerate(names)),
        *(["ip", "-n", name, "addr", "add", f"10.78.0.{i + 1}/24", "dev", "data"] for i, name in enumerate(names)),
        *(["ip", "-n", name, "link", "set", link, "up"] for name in names for link in ("lo", "a0", "a1", "data")),
    ]
    folders = [Path("/etc/netns", name) for name in names]
    try:
        if not shutil.which("ip") or any(subprocess.run(step, capture_output=True).returncode for step in setup):
            pytest.skip("network namespaces are not permitted here")
        for i, folder in enumerate(folders):
            folder.mkdir(parents=True)
            told = HOSTS.format(own=hosts[i], other=2 - i, peer=hosts[1 - i])
            (folder / "hosts").write_text(told)  # `ip netns exec` puts it in the place of /etc/hosts
        yield names
    finally:
        for name, folder in zip(names, folders, strict=True):
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_ranks_meet_where_every_hosts_name_is_its_loopback(two_hosts: list[str], tmp_path: Path) -> None:
    program = tmp_path / "job.py"
    program.write_text(JOB)
    agents = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"'),
                *(("head", "tail")[node], sys.executable, "-m", "torch.distributed.run", "--nnodes=2"),
                *(f"--node-rank={node}", "--nproc-per-node=2", "--master-addr=head", "--master-port=29611"),
                str(program),
            ],
            cwd=ROOT,
            env=environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node, name in enumerate(two_hosts)
    ]
    for node, agent in enumerate(agents):
        errors = agent.communicate(timeout=120)[1]
        assert agent.returncode == 0, errors[-3000:]
        assert errors.count("gathered ['0', '0', '1', '1'] data") == 2
        said = f"fastsvs: node {node}: GLOO_SOCKET_IFNAME=data NCCL_SOCKET_IFNAME==data (10.78.0.{node + 1})"
        assert errors.count(said) == 1


def test_a_store_of_the_job_will_do() -> None:
    """What `distributed` hands over has the methods that are asked for, and waits."""
    store = dist.HashStore()
    network.announce_address(store, Place(0, 2, True, "127.0.0.1"))
    assert store.get("address/0") == b"127.0.0.1"


def test_a_rank_whose_torchrun_has_ended_does_not_look_for_its_store(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(closed.getsockname()[1])}
        for name, value in (place | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(distributed, "AGENT_SECONDS", 0.2)
        distributed.store.cache_clear()
        with pytest.raises(UserError, match=r"torchrun's store at 127.0.0.1:.* is gone"):
            distributed.store()
