"""Leftovers of a server of ours that was killed, and their removal: processes, shared memory, files.

Its supervisor keeps a record in the run's folder while the server runs. The record of one that is gone says what to
sweep. The standard library is all that this needs. Linux only.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from fastsvs.processes import descendants, process, processes, runs

LOG = logging.getLogger(__name__)
SUFFIX = ".running.json"
SHARED_MEMORY = Path("/dev/shm")
BOOT = Path("/proc/sys/kernel/random/boot_id")
KILL_SECONDS = 20.0
"""Longest wait for processes that were killed, in seconds. Only uninterruptible calls take that long."""
TRACKER_SECONDS = 3.0

Known = tuple[int, int]
"""Number of a process, and its start in clock ticks since the machine's."""
Segment = tuple[str, int]
"""Name of a file in SHARED_MEMORY, and its inode."""


@dataclass(frozen=True)
class Record:
    """Possessions of a server that do not go away by themselves."""

    boot: str
    """Boot of the machine during which the numbers below mean something."""
    owner: Known
    """Process that had the server started."""
    folder: str
    """Folder of temporary files, those of sockets included."""
    processes: tuple[Known, ...] = ()
    """Processes of the server, the supervisor first."""
    segments: tuple[Segment, ...] = ()
    """Shared memory that the processes use."""


def record_of(log: Path) -> Path:
    """Return the place of the record of the server that writes `log`."""
    return log.with_suffix(SUFFIX)


def temporary_folder(log: Path) -> Path:
    """Return the place for temporary files of the server that writes `log`: beside the log, or, where a socket there
    has too long a path or the file system takes none, a new name in the machine's folder of temporary files."""
    near = log.with_suffix(".tmp")
    near.mkdir(mode=0o700, exist_ok=True)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(near / str(uuid4())))
    except OSError:
        return Path(tempfile.gettempdir(), f"fastsvs-{uuid4().hex[:16]}")
    finally:
        shutil.rmtree(near)
    return near


def boot() -> str:
    """Return the identity of the present boot of this machine."""
    return BOOT.read_text().strip()


def identify(pid: int) -> Known:
    """Return what tells the living process `pid` from later ones. Raises ProcessLookupError when there is none."""
    if (found := process(pid)) is None:
        raise ProcessLookupError(f"process {pid} is gone")
    return pid, found.started


def write(path: Path, record: Record) -> None:
    """Replace the record in one step."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(asdict(record)))
    draft.replace(path)


def read(path: Path) -> Record | None:
    """Return the record, or None where there is none, or none that makes sense."""
    try:
        fields = json.loads(path.read_text())
        return Record(
            boot=str(fields["boot"]),
            owner=_known(fields["owner"]),
            folder=str(fields["folder"]),
            processes=tuple(_known(one) for one in fields["processes"]),
            segments=tuple((str(name), int(inode)) for name, inode in fields["segments"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def sweep_orphans(folder: Path) -> None:
    """Remove what servers have left whose records are in `folder`, except those whose owner still runs."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        record = read(path)
        if record is None or record.boot != boot() or not runs(*record.owner):
            sweep(path)


def sweep(path: Path) -> None:
    """Remove what the server of a record has left, and the record."""
    if (record := read(path)) is not None:
        remove(record)
    forget(path)


def forget(path: Path) -> None:
    """Remove a record."""
    path.with_suffix(".new").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def remove(record: Record) -> None:
    """Remove processes and what descends from them, shared memory that nobody else uses, and temporary files."""
    if record.boot == boot():
        end(_family(record.processes))
        _unlink(record.segments)
    _remove(Path(record.folder))


def end(find: Callable[[], Iterable[Known]]) -> None:
    """Kill the processes that `find` finds until it finds none that runs, for KILL_SECONDS at most.

    Python's resource trackers get TRACKER_SECONDS: they remove the shared memory of the dead, and then end by
    themselves.
    """
    begun = time.monotonic()
    while alive := [one for one in find() if runs(*one)]:
        seconds = time.monotonic() - begun
        if seconds > KILL_SECONDS:
            LOG.warning("processes %s of a rollout server do not end although they were killed", alive)
            return
        for pid, _ in alive:
            if seconds > TRACKER_SECONDS or not _is_resource_tracker(pid):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def segments_of(pids: Iterable[int]) -> set[Segment]:
    """Return the shared memory that processes use and that has a name, as far as this process may know of it."""
    found = set()
    for pid in pids:
        with suppress(OSError):  # gone by now, or somebody else's
            for line in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines():
                _, _, _, _, inode, *path = line.split(maxsplit=5)
                if path and path[0].startswith(f"{SHARED_MEMORY}/") and not path[0].endswith(" (deleted)"):
                    found.add((path[0].removeprefix(f"{SHARED_MEMORY}/"), int(inode)))
    return found


def exists(segment: Segment) -> bool:
    """Return whether shared memory is still there and the same."""
    name, inode = segment
    try:
        return (SHARED_MEMORY / name).lstat().st_ino == inode
    except OSError:
        return False


def _known(pair: list[int]) -> Known:
    pid, started = pair
    return int(pid), int(started)


def _family(known: Iterable[Known]) -> Callable[[], set[Known]]:
    """Return what finds processes that are `known`, and all that descend from them, also after their death."""
    found = set(known)

    def find() -> set[Known]:
        found.update((one.pid, one.started) for one in descendants([pid for pid, begun in found if runs(pid, begun)]))
        return found

    return find


def _is_resource_tracker(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _unlink(segments: Iterable[Segment]) -> None:
    segments = set(segments)
    for one in segments - segments_of(one.pid for one in processes()) if segments else ():
        if exists(one):
            with suppress(OSError):
                (SHARED_MEMORY / one[0]).unlink()


def _remove(folder: Path) -> None:
    """Remove a folder of temporary files that is this user's."""
    with suppress(OSError):
        if folder.lstat().st_uid == os.getuid():
            shutil.rmtree(folder)
