"""`fastsvs doctor`: a line for everything that a run may need, and a cure for everything that is lacking."""

import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastsvs.cli import main
from fastsvs.commands import doctor

NAMES = [
    *(
        "Python",
        "bytecode",
        "open files",
        "/dev/shm",
        "disk",
        "memory",
        "network for gloo",
        "network for NCCL",
        "hub",
        "torch",
    ),
    *("CUDA", "Triton", "NCCL", "vLLM", "flash attention", "Transformer Engine", "sandbox"),
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_every_topic_has_a_line() -> None:
    found = list(doctor.findings())
    assert [finding.name for finding in found] == NAMES
    assert all(finding.cure for finding in found if finding.state == "lacks")


def test_what_is_lacking_ends_in_a_message(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = doctor.Finding("disk", "lacks", "0 GiB free", "a larger one")
    monkeypatch.setattr(doctor, "findings", lambda: iter([doctor.Finding("Python", "good", "3.12.1"), lacking]))
    assert main(["doctor"]) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "ok    Python              3.12.1",
        "LACKS disk                0 GiB free",
        "                          cure: a larger one",
    ]
    assert "this machine lacks 1 thing(s), each with its cure above: disk" in printed.err


@pytest.mark.parametrize(
    ("limits", "cure"),
    [
        ((1024, 524288), "ulimit -n 65536"),
        ((1024, 2048), "ulimit -n 2048, after raising the hard limit (nofile in /etc/security/limits.conf)"),
        ((1024, resource.RLIM_INFINITY), "ulimit -n 65536"),
        ((4096, 4096), ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), ""),
    ],
)
def test_open_files(limits: tuple[int, int], cure: str) -> None:
    assert doctor.open_files(*limits).cure == cure


@pytest.mark.parametrize(("unwritten", "state"), [(False, "good"), (True, "without")])
def test_bytecode_that_is_not_kept_has_a_cure(unwritten: bool, state: str) -> None:
    finding = doctor.bytecode(unwritten)
    assert (finding.state, bool(finding.cure)) == (state, unwritten)


def test_small_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=64 << 20))
    assert "--shm-size=16g" in doctor.shared_memory(tmp_path).cure
    assert "run.dir" in doctor.disk(tmp_path).cure
    assert doctor.shared_memory(tmp_path / "none").state == "without"


@pytest.mark.parametrize(
    ("environment", "names", "states", "said"),
    [
        ({}, ["lo", "eth0", "ib0"], ["good", "good"], "what leads to the main node, of eth0, ib0"),
        ({}, ["lo"], ["good", "good"], "of loopback alone"),
        ({"GLOO_SOCKET_IFNAME": "eth1"}, ["lo", "eth0"], ["lacks", "good"], "there is no eth1"),
        ({"NCCL_SOCKET_IFNAME": "eth,ib"}, ["lo", "eth0", "ib0"], ["good", "good"], "NCCL_SOCKET_IFNAME=eth,ib"),
        ({"NCCL_SOCKET_IFNAME": "=ib1"}, ["lo", "eth0"], ["good", "lacks"], "there is no ib1"),
        ({"NCCL_SOCKET_IFNAME": "^docker"}, ["lo", "eth0"], ["good", "good"], "NCCL_SOCKET_IFNAME=^docker"),
    ],
)
def test_interfaces(environment: dict[str, str], names: list[str], states: list[str], said: str) -> None:
    found = list(doctor.interfaces(environment, names))
    assert [finding.state for finding in found] == states
    assert said in "\n".join(map(str, found))


def test_a_hub_that_cannot_be_reached_has_a_cure() -> None:
    found = doctor.hub({"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert (found.state, "HF_HUB_OFFLINE=1" in found.cure) == ("without", True)
    assert "offline mode" in doctor.hub({"HF_HUB_OFFLINE": "1"}).found


@pytest.mark.parametrize(
    ("driver", "runtime", "state", "said"),
    [
        (None, None, "without", "runs take the CPU"),
        ("580.65", None, "lacks", "is built for CPUs"),
        ("470.10", "13.0", "lacks", "install a driver for CUDA 13.0"),
    ],
)
def test_a_driver_and_a_torch_that_do_not_meet(monkeypatch, driver, runtime, state, said) -> None:
    monkeypatch.setattr(doctor, "_driver", lambda: driver)
    monkeypatch.setattr("torch.version.cuda", runtime)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (cuda,) = [finding for finding in doctor.accelerator() if finding.name == "CUDA"]
    assert cuda.state == state
    assert said in str(cuda)
