"""The committed table of reports, and what counts as a regression against it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from fastsvs.kernels.table import ANY_LENGTH, ROW_CONFIGS


class Architecture(NamedTuple):
    """A kind of GPU, as Triton and its compiler's backends know it."""

    backend: Literal["cuda", "hip"]
    arch: int | str
    warp_size: int
    shared_bytes: int
    """Most shared memory that a program may have, in bytes."""


ARCHITECTURES = {
    "sm_80": Architecture("cuda", 80, 32, 166_912),
    "sm_90a": Architecture("cuda", 90, 32, 232_448),
    "sm_100": Architecture("cuda", 100, 32, 232_448),
    "sm_120": Architecture("cuda", 120, 32, 101_376),
    "gfx942": Architecture("hip", "gfx942", 64, 65_536),
}
"""Architectures that the kernels are compiled for: A100, H100 and H200, B200, RTX 5090 and PRO 6000, MI300X."""
REGISTER_SLACK = 4
LOOP_SLACK = 1.03

ELEMENTS = {2: "bf16", 4: "fp32"}
"""Names of the element types in the names of cases, by bytes of a logit."""
LONG_ROWS = [
    (kernel, f"{element} {configs[size][ANY_LENGTH].block}x{configs[size][ANY_LENGTH].warps}")
    for kernel, configs in ROW_CONFIGS.items()
    for size, element in ELEMENTS.items()
]
"""Beginning and middle of the names of the cases for long rows."""

Table = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Values by architecture, case and field of `binary.Report`."""


def as_json(triton: str, reports: Table) -> str:
    """Return one JSON object, with each case on a line of its own so that a changed one is one line."""
    lines = [
        f"{json.dumps(arch)}: {{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(cases[name])}" for name in cases)
        for arch, cases in reports.items()
    ]
    return f'{{"triton": {json.dumps(triton)}, "reports": {{\n' + "\n},\n".join(lines) + "\n}}}\n"


def regressions(found: Table, recorded: Table) -> Iterator[str]:
    """Yield one line for each thing that is worse than recorded, or worse than any kernel may be."""
    for arch, cases in found.items():
        for name, report in cases.items():
            where = f"{arch}, {name}"
            yield from (f"{where}: {what}" for what in _faults(report, ARCHITECTURES[arch].shared_bytes))
            if name not in recorded.get(arch, {}):
                yield f"{where}: not in the table; write it anew with --out"
            else:
                yield from (f"{where}: {what}" for what in _worse(report, recorded[arch][name]))


def page(tables: Mapping[str, Table]) -> str:
    """Return the table for bench/README.md of how each Triton version of `tables` compiles the long-row configurations
    for sm_90a."""
    fields = ("registers", "loop_bytes_ahead", "loop_instructions")
    lines = [
        f"| kernel, Triton {' / '.join(tables)} | registers | bytes ahead | instructions an entry |",
        "|---|---|---|---|",
    ]
    for name in next(iter(tables.values()))["sm_90a"]:
        if any(name.startswith(kernel) and config in name for kernel, config in LONG_ROWS):
            reports = [table["sm_90a"][name] for table in tables.values()]
            values = [" / ".join(str(report[field]) for report in reports) for field in fields]
            lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines)


def _faults(report: Mapping[str, float], shared_bytes: int) -> Iterator[str]:
    if report["spilled_bytes"]:
        yield f"{report['spilled_bytes']} bytes of a thread spilled"
    if report["shared_bytes"] > shared_bytes:
        yield f"{report['shared_bytes']} bytes of shared memory, of {shared_bytes}"


def _worse(report: Mapping[str, float], before: Mapping[str, float]) -> Iterator[str]:
    if report["registers"] > before["registers"] + REGISTER_SLACK:
        yield f"{report['registers']} registers, {before['registers']} recorded (slack {REGISTER_SLACK})"
    if report["loop_instructions"] > before["loop_instructions"] * LOOP_SLACK:
        yield f"{report['loop_instructions']} instructions an entry, {before['loop_instructions']} recorded"
    for field, what in (("loads_128", "128-bit loads"), ("stores_128", "128-bit stores")):
        if report[field] < before[field]:
            yield f"{report[field]} {what}, {before[field]} recorded"
