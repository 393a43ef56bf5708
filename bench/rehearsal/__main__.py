"""`python -m bench.rehearsal --out DIR [--scale small|full]`: rehearse the 32B job with everything but its width.

Two jobs run to their ends, the second with twice the problems of the first. In the second a node is killed after a
checkpoint, and the job is started again. The command ends with status 1 and names what went wrong: a job that did not
do what it must, or a phase that grows faster than its data.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.rehearsal.cluster import Attempt, RehearsalError, started
from bench.rehearsal.figures import PROVIDER, UPDATE, Start, costs, growth, rows, start_of, too_steep
from bench.rehearsal.hosts import Hosts, open_hosts
from bench.rehearsal.inputs import write_inputs
from bench.rehearsal.phases import Phase, read_phases
from bench.rehearsal.rank import FORKS, PRELOADED, ROOT
from bench.rehearsal.scales import SCALES, Scale, command_line
from bench.rehearsal.server import SETTINGS
from bench.report import Row, introduce, publish
from bench.usage import parser_of
from fastsvs.files import read_jsonl
from fastsvs.stored_run import StoredRun, checkpoints_in

STEPS = 3
"""Number of steps of each job."""
KILLED_AFTER = 2
"""Step after which a node is killed, whose checkpoint may be being written then."""
JOB_SECONDS = 1500.0
"""Longest start of a job, in seconds."""
KILLED = 1
"""Node that is killed: it trains, and is not the main one."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("rehearsal", __doc__)
    parser.add_argument("--scale", choices=sorted(SCALES), default="full", help="size of the job (%(default)s)")
    parser.add_argument("--keep", type=Path, help="folder for the runs, which are removed otherwise")
    options = parser.parse_args(arguments)
    introduce(options.scale, needs_gpu=False)
    scale = SCALES[options.scale]
    with tempfile.TemporaryDirectory() as temporary, open_hosts(scale.nodes) as hosts:
        try:
            found, faults = rehearse(scale, hosts, (options.keep or Path(temporary)).absolute())
        except RehearsalError as error:
            print(f"rehearsal: {error}", file=sys.stderr)
            return 1
    publish(f"rehearsal-{options.scale}", found, options.out)
    for fault in faults:
        print(f"rehearsal: {fault}", file=sys.stderr)
    return 1 if faults else 0


def rehearse(scale: Scale, hosts: Hosts, folder: Path) -> tuple[list[Row], list[str]]:
    """Run both jobs in `folder`. Return all figures, and a sentence for each phase that grows too fast. Raises
    RehearsalError."""
    variables = environment(scale, folder)
    os.environ.update(variables)  # which the process that forks all ranks inherits
    FORKS.set_forkserver_preload(PRELOADED)
    write_inputs(scale, folder)
    note = f"{scale.describe()}; {len(hosts.names) or 1} network namespace(s)"
    small, found = steady(scale, hosts, folder, variables, note)
    large, more = with_a_kill(scale, hosts, folder, variables, note)
    before, after = costs(small), costs(large)
    return [*found, *more, *growth(before, after)], too_steep(before, after)


def environment(scale: Scale, folder: Path) -> dict[str, str]:
    """Return the environment of all processes, servers included, which find the stand-in in vLLM's place."""
    settings = {
        "model": str(folder / "model"),
        "long_median": scale.long_median,
        "short_median": scale.short_median,
        "seconds_per_token": scale.seconds_per_token,
    }
    path = [str(Path(__file__).with_name("stand_in")), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(path)}
    return {**os.environ, **own, SETTINGS: json.dumps(settings)}


def steady(
    scale: Scale, hosts: Hosts, folder: Path, variables: dict[str, str], note: str
) -> tuple[list[Start], list[Row]]:
    """Run the first job, to which nothing happens, and return its start and figures."""
    case, run = f"{scale.prompts} problems a step", folder / "steady"
    words = command_line(scale, folder, run, scale.prompts, STEPS)
    with started(scale, hosts, words, variables, folder / "steady.start_1") as attempt:
        ended_well(attempt)
    starts = finished(case, run, [attempt])
    return starts, [*rows(case, starts, evaluated(run), note), *watched(case, attempt, scale)]


def with_a_kill(
    scale: Scale, hosts: Hosts, folder: Path, variables: dict[str, str], note: str
) -> tuple[list[Start], list[Row]]:
    """Run the second job: kill a node, see all others end, and start it again. Return both starts and all figures."""
    case, run = f"{2 * scale.prompts} problems a step", folder / "killed"
    words = command_line(scale, folder, run, 2 * scale.prompts, STEPS)
    with started(scale, hosts, words, variables, folder / "killed.start_1") as first:
        first.wait(JOB_SECONDS, lambda: len(StoredRun(run).metrics()) >= KILLED_AFTER)
        first.check_that_none_failed()
        first.kill_node(KILLED)
        began = time.monotonic()
        first.wait(JOB_SECONDS)
        ended = time.monotonic() - began
        first.check_that_nothing_is_left()
    before = played(run, KILLED_AFTER)
    kept = max(checkpoints_in(run / "checkpoints"), default=0)
    begun = time.monotonic()
    with started(scale, hosts, words, variables, folder / "killed.start_2") as second:
        second.wait(JOB_SECONDS, lambda: any(phase.name == "resume" for phase in phases_of(second)))
        again = time.monotonic() - begun
        ended_well(second)
    starts = finished(case, run, [first, second])
    if (made := len(starts[1].steps)) != STEPS - kept or kept < KILLED_AFTER - 1:
        raise RehearsalError(f"{case}: the second start made {made} steps after a checkpoint of step {kept}")
    if played(run, KILLED_AFTER) != before:
        raise RehearsalError(f"{case}: step {KILLED_AFTER} has other samples now that it was made again")
    found = [
        Row(case, PROVIDER, "end of all ranks after a node was killed", ended, "s"),
        Row(case, PROVIDER, "second start, from nothing until it has resumed", again, "s"),
        Row(case, PROVIDER, "newest checkpoint after the kill", kept, "step"),
    ]
    return starts, [*rows(case, starts, evaluated(run), note), *found, *watched(case, second, scale)]


def ended_well(attempt: Attempt) -> None:
    attempt.wait(JOB_SECONDS)
    attempt.check_that_none_failed()
    attempt.check_that_nothing_is_left()


def played(run: Path, step: int) -> dict[str, dict[str, object]]:
    """Return what was sampled in a step, by key, without the versions of the weights: a start has no older ones."""
    rows = read_jsonl(StoredRun(run).layout.samples(step))
    return {row["key"]: {name: value for name, value in row.items() if name != "weight_versions"} for row in rows}


def evaluated(run: Path) -> int:
    """Return the number of tokens of all evaluations."""
    layout = StoredRun(run).layout
    return sum(sum(row["tokens"]) for step in (0, STEPS) for row in read_jsonl(layout.evaluation_samples(step)))


def phases_of(attempt: Attempt) -> Sequence[Phase]:
    """Return the phases of rank 0."""
    return read_phases(attempt.folder / "phases_0.jsonl")


def finished(case: str, run: Path, attempts: Sequence[Attempt]) -> list[Start]:
    """Check that the job is whole, and return its starts. Raises RehearsalError."""
    stored = StoredRun(run)
    metrics = {int(row["step"]): row for row in stored.metrics()}
    if list(metrics) != list(range(1, STEPS + 1)):
        raise RehearsalError(f"{case}: metrics of steps {list(metrics)} instead of 1 to {STEPS}")
    if sorted(stored.evaluations()) != [0, STEPS]:
        raise RehearsalError(f"{case}: evaluations after steps {sorted(stored.evaluations())}, not before and after")
    if STEPS not in checkpoints_in(run / "checkpoints"):
        raise RehearsalError(f"{case}: no checkpoint after the last step")
    sizes = {step: stored.layout.samples(step).stat().st_size for step in metrics}
    found = []
    for number, attempt in enumerate(attempts, 1):
        phases = phases_of(attempt)
        updates = sum(phase.name == UPDATE for phase in phases)
        last = STEPS if number == len(attempts) else updates  # a first start begins with step 1
        found.append(start_of(phases, metrics, sizes, last))
    return found


def watched(name: str, attempt: Attempt, scale: Scale) -> Iterator[Row]:
    """Yield the memory and the open files of the training ranks, and the size of a checkpoint."""
    training = range(scale.training_ranks)
    for metric, unit, seen in (
        ("memory, its share of what it shares included", "bytes", attempt.peak_memory),
        ("open files", "files", attempt.open_files),
    ):
        values = [seen[rank] for rank in training if rank in seen]
        yield Row(name, PROVIDER, f"peak {metric}, rank 0", seen[0], unit)
        yield Row(name, PROVIDER, f"peak {metric}, most of all ranks", max(values), unit)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # which ends all processes first
    sys.exit(main())
