"""A host of its own for one job: processes, network, shared memory and disk that nothing else uses. It needs root."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SPACES = ("--mount", "--net", "--pid")
HOLDER = "import signal, time; signal.signal(signal.SIGCHLD, signal.SIG_IGN); time.sleep(1e9)"
"""Program of the first process, to which those whose parents end are given."""
START_SECONDS = 30.0
OF_TORCH = ("torchinductor_", "torchelastic_")
"""Beginnings of names: a cache that is to stay, and what a launcher leaves that was killed."""
ROLES = {
    "torch.distributed.run": "agent",
    "supervisor.py": "supervisor",
    "fastsvs.vllm_server": "API server",
    "VLLM::EngineCore": "engine core",
    "VLLM::Worker": "worker",
    "fastsvs.client.process": "client",
    "fastsvs.verify": "verifier",
    "fastsvs.sandbox": "sandbox",
    "-m fastsvs": "rank",
    "fastsvs/__main__": "rank",
}
"""Role of a process by what its command line holds; the first that fits."""


@dataclass(frozen=True)
class Host:
    """A machine in the machine."""

    first: int
    """Number of its first process outside."""
    disk: Path
    """Folder in which its disk is mounted."""

    @property
    def files(self) -> Path:
        """Return where the files of the disk lie for this process."""
        return Path(f"/proc/{self.first}/root{self.disk}")

    def start(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command on the host, which appends what it prints to `log`, a file that is not on the host."""
        with log.open("ab") as file:
            return subprocess.Popen([*self._inside(), *words], env=dict(environment), stdout=file, stderr=file)

    def do(self, *words: str) -> None:
        """Run a command on the host. It may fail, because what it is about has gone."""
        subprocess.run([*self._inside(), *words], capture_output=True, timeout=START_SECONDS, check=False)

    def processes(self) -> dict[int, str]:
        """Return the roles of all processes but the first, by their numbers on the host."""
        found = {}
        for entry in Path(f"/proc/{self.first}/root/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # gone by now
                continue
            if words and entry.name != "1":
                found[int(entry.name)] = next((role for sign, role in ROLES.items() if sign in words), "other")
        return found

    def ports(self) -> list[int]:
        """Return the ports of all sockets that listen on TCP."""
        files = [Path(f"/proc/{self.first}/net/{name}") for name in ("tcp", "tcp6")]
        rows = [line.split() for file in files for line in file.read_text().splitlines()[1:]]
        return sorted({int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"})

    def shared_memory(self) -> list[str]:
        return sorted(os.listdir(f"/proc/{self.first}/root/dev/shm"))

    def temporary(self) -> list[str]:
        """Return the names of the temporary files, without those of torch itself and its launcher."""
        return sorted(name for name in os.listdir(self.files / "tmp") if not name.startswith(OF_TORCH))

    def _inside(self) -> list[str]:
        return ["nsenter", "--target", str(self.first), *SPACES, f"--wdns={os.getcwd()}", "--"]


@contextmanager
def open_host(disk: Path, nbytes: int) -> Iterator[Host]:
    """Make a host with a disk of `nbytes`, mounted at the folder `disk`, and end all that runs on it."""
    setup = (
        "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && "
        f'mount -t tmpfs -o size={nbytes} tmpfs "$0" && mkdir "$0/tmp" && touch "$0/ready" && exec "$@"'
    )
    shell = ["sh", "-c", setup, str(disk), sys.executable, "-c", HOLDER]
    holder = subprocess.Popen(["unshare", *SPACES, "--fork", "--mount-proc", "--kill-child", *shell])
    try:
        yield Host(_first(holder, disk), disk)
    finally:
        holder.kill()
        holder.wait()


def _first(holder: subprocess.Popen[bytes], disk: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
    while holder.poll() is None and time.monotonic() < deadline:
        for child in children.read_text().split():
            if Path(f"/proc/{child}/root{disk}/ready").exists():
                return int(child)
        time.sleep(0.05)
    raise RuntimeError("no host of its own: the campaign needs root and namespaces")
