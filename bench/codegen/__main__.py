"""Compile the Triton kernels in all their configurations for GPUs that need not be there, and keep or check the table.

python -m bench.codegen --out FILE      write the table of this Triton version
python -m bench.codegen --check FILE    exit 1, and name what is worse, where anything got worse than FILE; for the
                                        architectures that it has
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

os.environ.pop("TRITON_INTERPRET", None)  # it would make every kernel a Python function

import triton

from .binary import compile_report
from .cases import all_cases
from .table import ARCHITECTURES, Table, as_json, regressions


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.codegen", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="write the table there")
    what.add_argument("--check", type=Path, help="compare with the table there")
    parser.add_argument("--arch", choices=ARCHITECTURES, action="append", help="only that architecture")
    parser.add_argument("--match", default="", help="only cases whose name has this in it")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args(arguments)
    recorded = read(chosen.check) if chosen.check else {}
    begun = perf_counter()
    found = compile_all(chosen.arch or list(recorded or ARCHITECTURES), chosen.match, chosen.processes)
    count = sum(map(len, found.values()))
    print(f"Triton {triton.__version__}: {count} binaries in {perf_counter() - begun:.0f} s")
    if chosen.out:
        chosen.out.write_text(as_json(triton.__version__, found))
        print(f"written: {chosen.out}")
    worse = list(regressions(found, recorded if chosen.check else found))
    for line in worse:
        print(line)
    sys.exit(1 if worse else 0)


def read(file: Path) -> Table:
    content = json.loads(file.read_text())
    if content["triton"] != triton.__version__:
        sys.exit(f"{file} is of Triton {content['triton']}, this is {triton.__version__}")
    return content["reports"]


def compile_all(archs: Sequence[str], match: str, processes: int) -> Table:
    names = [name for name in all_cases() if match in name]
    if not names:
        sys.exit(f"no case has {match!r} in its name; there are: {'; '.join(all_cases())}")
    jobs = [(name, arch) for arch in archs for name in names]
    if processes == 1:
        reports = list(map(compile_report, jobs))
    else:
        # Nothing runs beside this thread yet, so that forks are safe, and what is imported is there in each of them.
        with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
            reports = list(pool.map(compile_report, jobs))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (name, arch), report in zip(jobs, reports, strict=True):
        found.setdefault(arch, {})[name] = report
    return found


if __name__ == "__main__":
    main()
