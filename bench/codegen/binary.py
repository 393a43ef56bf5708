"""Figures of a compiled kernel, read from its cubin with the disassembler that Triton brings along."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .cases import Case, all_cases

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?P<text>[^;]+);")
LABEL = re.compile(r"^(?P<label>\.L_x_\d+):")
BRANCH = re.compile(r"\bBRA(?:\.\S+)?\s.*`\((?P<label>\.L_x_\d+)\)")


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


def compile_report(job: tuple[str, int]) -> dict[str, float]:
    """Return the report on a (case name, architecture), as a job for a process of a pool."""
    name, arch = job
    return asdict(inspect(all_cases()[name], arch))


def inspect(case: Case, arch: int) -> Report:
    """Compile `case` for the compute capability `arch` (90 is sm_90a) and report on it. No GPU is needed."""
    names = list(case.signature)
    source = ASTSource(
        fn=case.kernel,
        signature=dict(case.signature),
        constexprs={(names.index(name),): value for name, value in case.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in sorted(case.divisible)},
    )
    options = {"num_warps": case.warps, "enable_fp_fusion": True, "debug": bool(case.kernel.debug)}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        lines = _run("nvdisasm", "-c", file.name).splitlines()
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0])
    opcodes, loop = read_opcodes(lines)
    spills = sum(_is(opcode, "LDL", "STL") for opcode in opcodes)
    entries = case.block / (32 * case.warps)
    exp2 = [_is(opcode, "MUFU.EX2") for opcode in loop]
    unrolled = max(1, round(sum(exp2) / entries))
    ahead = loop[: exp2.index(True)] if any(exp2) else []
    return Report(
        registers=registers,
        spilled_bytes=max(stack, 4 * spills),
        shared_bytes=compiled.metadata.shared,
        loads_128=_wide(opcodes, "LDG"),
        stores_128=_wide(opcodes, "STG"),
        exp2=sum(_is(opcode, "MUFU.EX2") for opcode in opcodes),
        loop_instructions=round(len(loop) / (unrolled * entries), 2) if any(exp2) else 0.0,
        loop_bytes_ahead=16 * _wide(ahead, "LDG"),
    )


def read_opcodes(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the opcodes of the whole kernel and of its hot loop.

    The hot loop is the one with the most exponentials and, among equals, the most instructions.
    """
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    loops: list[list[str]] = [[]]
    for line in lines:
        if match := LABEL.match(line):
            labels[match["label"]] = len(opcodes)
        elif match := INSTRUCTION.match(line):
            words = match["text"].split()
            opcodes.append(words[1] if words[0].startswith("@") else words[0])
            branch = BRANCH.search(match["text"])
            if branch and branch["label"] in labels:
                loops.append(opcodes[labels[branch["label"]] :])
    return opcodes, max(loops, key=lambda loop: (sum(_is(opcode, "MUFU.EX2") for opcode in loop), len(loop)))


def _is(opcode: str, *names: str) -> bool:
    return any(opcode == name or opcode.startswith(name + ".") for name in names)


def _wide(opcodes: list[str], name: str) -> int:
    return sum(_is(opcode, name) and ".128" in opcode for opcode in opcodes)


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([str(TOOLS / tool), *arguments], capture_output=True, text=True, check=True).stdout
