"""A process of a rehearsed job: a fork of one interpreter that has imported the trainer, on its node of the network.

It is what torchrun would start, with the same environment variables, one store for each job, and the same command
line. torchrun's own agents would add four interpreters and take their ranks' fresh imports, 32 times five seconds.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

from bench.rehearsal.hosts import Hosts

ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
PRELOADED = [
    "bench.rehearsal.rank",
    "fastsvs.training.loop",
    "transformers.models.qwen2.modeling_qwen2",
    "matplotlib.pyplot",
]


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a process in a job."""

    node: int
    nodes: int
    local: int
    ranks: int
    """Number of ranks on each node."""
    address: str
    port: int
    """Where the store of the job listens."""

    @property
    def rank(self) -> int:
        return self.node * self.ranks + self.local

    def variables(self) -> dict[str, str]:
        """Return the environment variables by which torchrun tells a process its place."""
        told = {
            "RANK": self.rank,
            "LOCAL_RANK": self.local,
            "GROUP_RANK": self.node,
            "WORLD_SIZE": self.nodes * self.ranks,
            "LOCAL_WORLD_SIZE": self.ranks,
            "MASTER_ADDR": self.address,
            "MASTER_PORT": self.port,
            "TORCHELASTIC_USE_AGENT_STORE": True,
        }
        return {name: str(value) for name, value in told.items()}


def run(hosts: Hosts, place: Place, words: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
    """Run `python -m fastsvs WORDS` as the process at `place`, with its output and phases in files of `folder`."""
    from bench.rehearsal.phases import recorded
    from fastsvs.telemetry import StepProgress

    hosts.enter(place.node)
    with (folder / f"rank_{place.rank}.log").open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.environ.clear()
    os.environ.update(variables | place.variables())
    os.chdir(ROOT)
    sys.argv = ["fastsvs", *words]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    try:
        with patch.object(StepProgress, "phase", recorded(StepProgress.phase, folder / f"phases_{place.rank}.jsonl")):
            runpy.run_module("fastsvs", run_name="__main__", alter_sys=True)
    except Exception:
        traceback.print_exc()  # before the log is closed, as an interpreter of its own does
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them


def hold_store(hosts: Hosts, line: Connection) -> None:
    """Hold the store of a job on node 0, as the agent of its main node does: tell the port, and end with `line`."""
    from torch.distributed import TCPStore

    hosts.enter(0)
    store = TCPStore(hosts.main_address, 0, is_master=True, wait_for_workers=False)
    line.send(store.port)
    with suppress(EOFError):
        line.recv()
