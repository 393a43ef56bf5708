"""The instructions that a report counts, by the instruction set of the GPU."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Isa:
    """How a listing of instructions is read. The patterns match whole opcodes."""

    instruction: re.Pattern[str]
    label: re.Pattern[str]
    branch: re.Pattern[str]
    exp2: re.Pattern[str]
    wide_load: re.Pattern[str]
    wide_store: re.Pattern[str]
    spill: re.Pattern[str]

    def is_exp2(self, opcode: str) -> bool:
        """Check whether the opcode is an exponential."""
        return self.exp2.fullmatch(opcode) is not None

    def is_wide_load(self, opcode: str) -> bool:
        """Check whether the opcode is a 128-bit load from global memory."""
        return self.wide_load.fullmatch(opcode) is not None

    def is_wide_store(self, opcode: str) -> bool:
        """Check whether the opcode is a 128-bit store to global memory."""
        return self.wide_store.fullmatch(opcode) is not None

    def is_spill(self, opcode: str) -> bool:
        """Check whether the opcode moves a register to or from a thread's stack."""
        return self.spill.fullmatch(opcode) is not None


ISAS = {
    "cuda": Isa(
        instruction=re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@\S+\s+)?(?P<opcode>[^\s;]+)[^;]*;"),
        label=re.compile(r"^(?P<label>\.L_x_\d+):"),
        branch=re.compile(r"\bBRA(?:\.\S+)?\s.*`\((?P<label>\.L_x_\d+)\)"),
        exp2=re.compile(r"MUFU\.EX2(\..*)?"),
        wide_load=re.compile(r"LDG\..*\.128.*"),
        wide_store=re.compile(r"STG\..*\.128.*"),
        spill=re.compile(r"(LDL|STL)(\..*)?"),
    ),
    "hip": Isa(
        instruction=re.compile(r"^\t(?P<opcode>[a-z]\w+)"),
        label=re.compile(r"^(?P<label>\.LBB\d+_\d+):"),
        branch=re.compile(r"^\ts_c?branch\w*\s+(?P<label>\.LBB\d+_\d+)"),
        exp2=re.compile(r"v_exp_f32\w*"),
        wide_load=re.compile(r"(buffer|global)_load_dwordx4"),
        wide_store=re.compile(r"(buffer|global)_store_dwordx4"),
        spill=re.compile(r"scratch_(load|store)_\w+"),
    ),
}
"""Instruction sets: NVIDIA's as nvdisasm lists it, AMD's as LLVM writes it."""


def read_opcodes(lines: list[str], isa: Isa) -> tuple[list[str], list[str]]:
    """Return the opcodes of the whole kernel and of its hot loop.

    The hot loop is the one with the most exponentials and, among equals, the most instructions.
    """
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    loops: list[list[str]] = [[]]
    for line in lines:
        if match := isa.label.match(line):
            labels[match["label"]] = len(opcodes)
        elif match := isa.instruction.match(line):
            opcodes.append(match["opcode"])
            branch = isa.branch.search(line)
            if branch and branch["label"] in labels:
                loops.append(opcodes[labels[branch["label"]] :])
    return opcodes, max(loops, key=lambda loop: (sum(map(isa.is_exp2, loop)), len(loop)))
