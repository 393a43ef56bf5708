"""Which processes of a torchrun job train."""

import pytest

from fastsvs.config import RolloutConfig, ServerConfig
from fastsvs.errors import UserError
from fastsvs.rollout.nodes import read_nodes
from fastsvs.rollout.vllm.placement import takes_part


@pytest.fixture
def launched(monkeypatch):
    def launch(nodes: int, ranks: int, own: int) -> None:
        monkeypatch.setenv("WORLD_SIZE", str(nodes * ranks))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        monkeypatch.setenv("GROUP_RANK", str(own))

    return launch


DEDICATED = RolloutConfig(engine="vllm", placement="dedicated", nodes=2, server=ServerConfig(host="auto"))


@pytest.mark.parametrize(("own", "serves"), [(0, False), (2, False), (3, True), (4, True)])
def test_the_last_nodes_serve(launched, own, serves):
    launched(5, 8, own)
    nodes = read_nodes(DEDICATED)
    assert nodes.trainers == 24
    assert nodes.serves is serves


def test_without_dedicated_nodes_all_train(launched):
    launched(2, 4, 1)
    nodes = read_nodes(RolloutConfig(engine="vllm", server=ServerConfig(host="auto")))
    assert nodes.trainers == 8
    assert not nodes.serves


def test_a_plain_start_is_one_node(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert read_nodes(RolloutConfig()).trainers == 1


def test_too_few_nodes_are_named(launched):
    launched(2, 8, 0)
    with pytest.raises(UserError, match="--nnodes 3 or more"):
        read_nodes(DEDICATED)


def test_nodes_of_unequal_size_are_named(launched, monkeypatch):
    launched(2, 8, 0)
    monkeypatch.setenv("WORLD_SIZE", "15")
    with pytest.raises(UserError, match="same --nproc-per-node"):
        read_nodes(RolloutConfig())


def test_servers_that_other_nodes_cannot_reach_are_named(launched):
    launched(2, 8, 0)
    with pytest.raises(UserError, match="cannot be reached from the job's other nodes"):
        read_nodes(RolloutConfig(engine="vllm"))


@pytest.mark.parametrize(
    ("own", "local_rank", "rollout", "part"),
    [
        (0, 0, DEDICATED, True),  # orders
        (0, 1, DEDICATED, False),
        (1, 0, DEDICATED, False),  # trains alone
        (4, 0, DEDICATED, True),  # runs servers
        (4, 7, DEDICATED, False),
        (1, 0, DEDICATED.model_copy(update={"placement": "colocated"}), True),
        (0, 0, DEDICATED.model_copy(update={"placement": "external"}), False),
        (0, 0, RolloutConfig(), False),
    ],
)
def test_who_must_know_that_this_process_lives(launched, monkeypatch, own, local_rank, rollout, part):
    launched(5, 8, own)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert takes_part(rollout, read_nodes(rollout)) is part


def test_dedicated_nodes_need_servers(launched):
    launched(2, 8, 0)
    with pytest.raises(UserError, match=r"rollout\.engine: vllm"):
        read_nodes(RolloutConfig(placement="dedicated"))
