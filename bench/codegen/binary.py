"""Figures of a compiled kernel, read from NVIDIA's disassembly or AMD's assembly with what Triton brings along."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from .cases import Case, all_cases
from .isa import ISAS, read_opcodes
from .table import ARCHITECTURES, Architecture

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(frozen=True, slots=True)
class Report:
    registers: int
    spilled_bytes: int
    """Size of a thread's stack, or of its local loads and stores where that is larger, in bytes."""
    shared_bytes: int
    loads_128: int
    """Number of 128-bit loads in the whole kernel."""
    stores_128: int
    exp2: int
    loop_instructions: float
    """Number of instructions of the hot loop per entry of a row; 0 without such a loop."""
    loop_bytes_ahead: int
    """Bytes that a thread requests with the hot loop's 128-bit loads before the loop's first exponential."""


def compile_report(job: tuple[str, str]) -> dict[str, float]:
    """Return the report on a (case name, architecture), as a job for a process of a pool."""
    name, architecture = job
    return asdict(inspect(all_cases()[name], ARCHITECTURES[architecture]))


def inspect(case: Case, architecture: Architecture) -> Report:
    """Compile `case` for an architecture and report on it. No GPU is needed."""
    names = list(case.signature)
    source = ASTSource(
        fn=case.kernel,
        signature=dict(case.signature),
        constexprs={(names.index(name),): value for name, value in case.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in sorted(case.divisible)},
    )
    options = {
        "num_warps": case.threads // architecture.warp_size,
        "enable_fp_fusion": True,
        "debug": bool(case.kernel.debug),
    }
    compiled = triton.compile(source, target=GPUTarget(*architecture[:3]), options=options)
    read = _read_nvidia if architecture.backend == "cuda" else _read_amd
    registers, stack, lines = read(compiled)
    isa = ISAS[architecture.backend]
    opcodes, loop = read_opcodes(lines, isa)
    entries = case.block / case.threads
    exp2 = [isa.is_exp2(opcode) for opcode in loop]
    unrolled = max(1, round(sum(exp2) / entries))
    ahead = loop[: exp2.index(True)] if any(exp2) else []
    return Report(
        registers=registers,
        spilled_bytes=max(stack, 4 * sum(map(isa.is_spill, opcodes))),
        shared_bytes=compiled.metadata.shared,
        loads_128=sum(map(isa.is_wide_load, opcodes)),
        stores_128=sum(map(isa.is_wide_store, opcodes)),
        exp2=sum(map(isa.is_exp2, opcodes)),
        loop_instructions=round(len(loop) / (unrolled * entries), 2) if any(exp2) else 0.0,
        loop_bytes_ahead=16 * sum(map(isa.is_wide_load, ahead)),
    )


def _read_nvidia(compiled: CompiledKernel) -> tuple[int, int, list[str]]:
    """Return registers, bytes of the stack, and the lines of the disassembly."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        lines = _run("nvdisasm", "-c", "-ndf", file.name).splitlines()  # no analysis of its own of where branches go
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0])
    return registers, stack, lines


def _read_amd(compiled: CompiledKernel) -> tuple[int, int, list[str]]:
    """Return vector registers, bytes of the stack, and the lines of the assembly."""
    text = compiled.asm["amdgcn"]
    registers, stack = (
        int(re.findall(rf"\.{name}:\s+(\d+)", text)[0]) for name in ("vgpr_count", "private_segment_fixed_size")
    )
    return registers, stack, text.splitlines()


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([str(TOOLS / tool), *arguments], capture_output=True, text=True, check=True).stdout
