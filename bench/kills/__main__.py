"""`python -m bench.kills --runs N --seed S --out DIR`: disturb runs at random moments, and compare how they end.

Each run is a job of `bench.kills.jobs` on a host of its own, made of namespaces. Its processes are killed, interrupted,
stopped and continued, its disk is filled, its network goes down, its connections are cut. A command that ends with an
error is started again. In the end the run must be the same as one left alone, and nothing may be left on the host;
otherwise the fault is printed, and the command ends with status 1. It needs root.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench.kills import jobs
from bench.kills.disturb import Event, disturb
from bench.kills.host import Host, open_host
from bench.kills.jobs import Job
from bench.report import Row, write
from bench.usage import parser_of

DISK_BYTES = 400 << 20
PATIENCE, MORE_SECONDS = 10.0, 180.0
"""Longest duration of one start of a command: a multiple of that of one left alone, and seconds beside it."""
GONE_SECONDS = 30.0
"""Longest life of anything that a job started after its end, in seconds."""


@dataclass
class Disturbed:
    """One run that was disturbed."""

    job: Job
    starts: int = 0
    events: list[Event] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def main() -> None:
    parser = parser_of("kills", __doc__)
    parser.add_argument("--runs", type=int, default=26, help="number of disturbed runs")
    parser.add_argument("--events", type=int, default=8, help="largest number of events in one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", nargs="+", default=[], help=f"names of jobs: {', '.join(j.name for j in jobs.JOBS)}")
    parser.add_argument("--logs", type=Path, help="folder to keep what runs with a fault printed")
    options = parser.parse_args()
    chosen, moments = jobs.chosen(options.jobs), random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="fastsvs-kills-") as folder:
        campaign = Campaign(Path(folder), options.events, moments)
        alone = {job.name: campaign.alone(job) for job in chosen}
        order = [job for turn in range(max(job.weight for job in chosen)) for job in chosen if turn < job.weight]
        runs: list[Disturbed] = []
        for number in range(options.runs):
            job = order[number % len(order)]
            runs.append(campaign.run(job, *alone[job.name]))
            show(number, runs[-1])
            if options.logs and runs[-1].faults:
                options.logs.mkdir(parents=True, exist_ok=True)
                shutil.copy(campaign.log, options.logs / f"run_{number}.log")
            write("kills", rows(runs), options.out)
    sys.exit(any(run.faults for run in runs))


@dataclass(frozen=True)
class Campaign:
    folder: Path
    events: int
    moments: random.Random

    @property
    def log(self) -> Path:
        """Return the path of what the commands of the present run print."""
        return self.folder / "log"

    def alone(self, job: Job) -> tuple[Path, list[float]]:
        """Leave the job alone. Returns where its files lie, and the seconds of its commands."""
        kept, seconds = self.folder / "alone" / job.name, []
        with self._host() as host:
            for words in job.commands(host.disk):
                began = time.monotonic()
                if host.start(words, jobs.environment(host.disk), self.log).wait():
                    raise RuntimeError(f"{job.name} fails by itself: {self.log.read_text()[-3000:]}")
                seconds.append(time.monotonic() - began)
            shutil.copytree(host.files, kept, ignore=shutil.ignore_patterns("checkpoints", "tmp"))
            found = left_behind(host)
        print(f"{job.name}, left alone: {', '.join(f'{one:.0f} s' for one in seconds)} {found or ''}", flush=True)
        return kept, seconds

    def run(self, job: Job, alone: Path, seconds: Sequence[float]) -> Disturbed:
        """Run the job with up to `events` events at random moments, to its end."""
        run = Disturbed(job)
        with self._host() as host:
            for words, usual in zip(job.commands(host.disk), seconds, strict=True):
                while not run.faults and not self._ends_well(host, run, words, usual):
                    pass
            if not run.faults:
                run.faults += jobs.differences(job, host.files, alone)
                run.faults += left_behind(host)
        return run

    def _ends_well(self, host: Host, run: Disturbed, words: Sequence[str], usual: float) -> bool:
        """Start a command, disturb it, wait for its end, and return whether it did what it should."""
        run.starts += 1
        process = host.start(words, jobs.environment(host.disk), self.log)
        deadline = time.monotonic() + PATIENCE * usual + MORE_SECONDS
        while process.poll() is None:
            moment = time.monotonic() + self.moments.uniform(0, usual / 2)
            undisturbed = len(run.events) >= self.events
            while process.poll() is None and (undisturbed or time.monotonic() < moment):
                if time.monotonic() > deadline:
                    run.faults.append(f"{words[-4:]} does not end; there are {host.processes()}")
                    return False
                time.sleep(0.05)
            if process.poll() is None and (event := disturb(host, self.moments)):
                run.events.append(event)
                process.send_signal(signal.SIGCONT)  # nsenter stops with its child, and does not go on with it
        if process.returncode and run.starts > 2 + 2 * self.events:
            run.faults.append(f"{words[-4:]} ends with status {process.returncode} whenever it is started")
        # What was killed after it had published its export did what it should; the next start finds it done.
        return process.returncode == 0 or (
            words[-1] == str(host.disk / "exported") and (host.files / "exported").exists()
        )

    def _host(self) -> AbstractContextManager[Host]:
        disk = self.folder / "disk"
        disk.mkdir(exist_ok=True)
        self.log.write_bytes(b"")
        return open_host(disk, DISK_BYTES)


def left_behind(host: Host) -> list[str]:
    """Return what a job that has ended has left on its host."""
    deadline = time.monotonic() + GONE_SECONDS
    while (processes := host.processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    found = {
        "processes": sorted(processes.values()),
        "ports": host.ports(),
        "shared memory": host.shared_memory(),
        "temporary files": host.temporary(),
    }
    return [f"{kind} left behind: {names}" for kind, names in found.items() if names]


def show(number: int, run: Disturbed) -> None:
    happened = ", ".join(f"{event.what} ({event.role})" for event in run.events)
    print(f"{number + 1} {run.job.name}: {run.starts} starts; {happened}", flush=True)
    for fault in run.faults:
        print(f"  FAULT: {fault}", flush=True)


def rows(runs: Sequence[Disturbed]) -> Iterator[Row]:
    for job in dict.fromkeys(run.job for run in runs):
        own = [run for run in runs if run.job == job]
        yield Row(job.name, "fastsvs", "runs", len(own), "count", note="exact" if job.exact else "counted")
        yield Row(job.name, "fastsvs", "starts", sum(run.starts for run in own), "count")
        yield Row(job.name, "fastsvs", "runs with a fault", sum(bool(run.faults) for run in own), "count", limit=0.0)
    events = Counter(event for run in runs for event in run.events)
    for event, times in sorted(events.items(), key=lambda item: (item[0].what, item[0].role)):
        yield Row("all", "fastsvs", f"{event.what}: {event.role}", times, "count")
    yield Row("all", "fastsvs", "events", sum(events.values()), "count")


if __name__ == "__main__":
    main()
