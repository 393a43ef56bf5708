"""The key of the servers: whose it is, and what other nodes are told of it."""

from __future__ import annotations

import pytest

from fastsvs.config import RolloutConfig, ServerConfig
from fastsvs.errors import UserError
from fastsvs.rollout.vllm.key import key_from, key_of, own_key, shared_key
from fastsvs.rollout.vllm.placement import check_servers

VARIABLE = "FASTSVS_API_KEY"
OURS = RolloutConfig(engine="vllm")
THEIRS = RolloutConfig(engine="vllm", placement="external", server=ServerConfig(urls=("http://10.0.0.5:8000",)))


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_a_random_key_differs_every_time_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = key_of(OURS), key_of(OURS)
    assert first != second
    assert len(first) > 40
    assert key_from(shared_key(OURS, first), OURS) == first


def test_the_users_key_is_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "mine")
    assert key_of(OURS) == "mine"
    assert shared_key(OURS, "mine") == ""
    assert key_from("", OURS) == "mine"


def test_nodes_that_disagree_on_whose_key_it_is_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"{VARIABLE} must be set on all nodes .* this one lacks it"):
        key_from("", OURS)
    monkeypatch.setenv(VARIABLE, "mine")
    with pytest.raises(UserError, match="only this one has it"):
        key_from("random", OURS)


@pytest.mark.parametrize("key", ["two words", "line\n", "schlüssel", "tab\t"])
def test_a_key_that_no_header_carries_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(UserError, match=VARIABLE):
        check_servers(OURS, here=True)


def test_external_servers_need_a_key_unless_told() -> None:
    with pytest.raises(UserError, match=f"{VARIABLE} must hold the key of the servers"):
        check_servers(THEIRS, here=True)
    server = THEIRS.server.model_copy(update={"unguarded": True})
    assert own_key(THEIRS.model_copy(update={"server": server})) is None
