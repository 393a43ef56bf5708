"""Runs a command and makes sure that none of its processes outlives the one that started this script.

    python supervisor.py OWNER_PID COMMAND...

SIGTERM, or the death of the owner by whatever means, ends all processes of the command, however they were started, and
the script with them. It is a script of the standard library alone, so that it starts at once and has nothing to fail
on. Linux only.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 5.0
"""Time from SIGTERM to SIGKILL, in seconds."""
TRACKER_SECONDS = 3.0
CHECK_SECONDS = 0.2
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main(owner: int, arguments: list[str]) -> int:
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    libc = ctypes.CDLL(None, use_errno=True)
    # Children of the command whose parent has died become ours instead of init's: we can find and kill them.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    command = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
    )
    while command.poll() is None and not told and os.getppid() == owner:
        time.sleep(CHECK_SECONDS)
    if command.poll() is None:
        terminate(command)
    kill_descendants()
    return 0 if command.returncode is None else command.returncode


def terminate(command: "subprocess.Popen[bytes]") -> None:
    """Send SIGTERM to the command's process group, and wait up to GRACE_SECONDS for the command to end."""
    with suppress(ProcessLookupError):
        os.killpg(command.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while command.poll() is None and time.monotonic() < deadline:
        time.sleep(CHECK_SECONDS / 4)


def kill_descendants() -> None:
    """Kill all descendants: killing children makes their children ours, until there are none left.

    Python's resource trackers get up to TRACKER_SECONDS: they remove the shared memory of the dead processes, and then
    end by themselves.
    """
    deadline = time.monotonic() + TRACKER_SECONDS
    while pids := children(os.getpid()):
        for pid in pids:
            if time.monotonic() > deadline or not is_resource_tracker(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for pid in pids:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(CHECK_SECONDS / 10)


def is_resource_tracker(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone by now
            _state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent:
                found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
