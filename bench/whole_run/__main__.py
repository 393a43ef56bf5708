"""Command line: every part in a process of its own, so that each begins on an empty GPU and none takes another down."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from bench import report
from bench.usage import parser_of
from bench.whole_run.cases import Case, Place, measure

PARTS = ("works", "peer", "learns", "shapes", "decode")
"""Names of the parts by value, so that a cut leaves the most telling; each is a module with `cases(place)`."""
LIMIT_SECONDS = 480.0
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("whole_run", __doc__, ("h200", "smoke"))
    parser.add_argument(
        "--only", nargs="+", metavar="PART[/CASE]", help=f"of {', '.join(PARTS)}, or beginnings of cases"
    )
    parser.add_argument("--model", default=MODEL, help="the small real model, a folder or a hub id")
    parser.add_argument("--work", type=Path, default=Path("runs/whole_run"), help="folder for runs and models")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds after which a part starts no case")
    chosen = parser.parse_args(arguments)
    report.introduce(chosen.suite, needs_gpu=chosen.suite == "h200")
    wanted = chosen.only or PARTS
    parts = [part for part in PARTS if any(name.split("/")[0] == part for name in wanted)]
    if unknown := [name for name in wanted if name.split("/")[0] not in PARTS]:
        parser.error(f"--only: there is no part {', '.join(unknown)} (parts: {', '.join(PARTS)})")
    place = Place(chosen.suite, chosen.model, chosen.work.absolute() / chosen.suite, chosen.out)
    if len(parts) == 1:
        sys.exit(run_part(parts[0], wanted, place, chosen.limit))
    sys.exit(max(run_apart(part, chosen) for part in parts))


def run_part(part: str, wanted: Sequence[str], place: Place, limit_seconds: float) -> int:
    """Measure this part in this process, and return the number of cases that failed."""
    make: Callable[[Place], list[Case]] = import_module(f"bench.whole_run.{part}").cases
    cases = [case for case in make(place) if any(case.name.startswith(name) for name in wanted)]
    failed = measure(part, cases, place, limit_seconds)
    print(f"{part}: {len(cases) - len(failed)} of {len(cases)} cases measured", flush=True)
    return len(failed)


def run_apart(part: str, chosen: argparse.Namespace) -> int:
    """Measure this part in a process of its own, and return its exit status."""
    names = [name for name in chosen.only or [part] if name.split("/")[0] == part]
    print(f"== {part}", flush=True)
    command = [sys.executable, "-m", "bench.whole_run", "--suite", chosen.suite, "--out", str(chosen.out)]
    options = ["--model", chosen.model, "--work", str(chosen.work), "--limit", str(chosen.limit), "--only", *names]
    return subprocess.run([*command, *options], check=False).returncode


if __name__ == "__main__":
    main()
