"""Reading of proposals from responses, and the checks that need no run of the program."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from fastsvs.config import AzrConfig
from fastsvs.selfplay.azr.responses import Blocks, last_block

ENTRY = "f"


class Rejection(StrEnum):
    """Reason for which a proposal is not valid."""

    FORMAT = "format"
    """A block is missing."""
    TOO_LONG = "too_long"
    """The program, an input, an output, or the prompt that the proposal leads to is too long."""
    SYNTAX = "syntax"
    """The text is no program, or the inputs are no literals."""
    NO_FUNCTION = "no_function"
    """The program does not define `f`."""
    BANNED = "banned"
    FEW_INPUTS = "few_inputs"
    """An induction proposal has fewer than two different inputs."""
    FAILED = "failed"
    """The program raised an exception, or was stopped."""
    NOT_DETERMINISTIC = "not_deterministic"
    OUTPUT = "output"
    """A result is no plain data."""
    LOST = "lost"
    """The program could not be run because the sandbox failed."""


@dataclass(frozen=True, slots=True)
class Proposal:
    program: str
    inputs: tuple[str, ...]
    message: str = ""


def read_proposal(blocks: Blocks, given: str | None, config: AzrConfig) -> Proposal | Rejection:
    """Read a program with an input or, for the `given` program, inputs and a message; return why not if it is
    invalid."""
    proposal = _inputs_and_message(blocks, given, config) if given else _program_and_input(blocks)
    if isinstance(proposal, Rejection):
        return proposal
    return check_program(proposal.program, config) or check_inputs(proposal.inputs, config) or proposal


def check_program(source: str, config: AzrConfig) -> Rejection | None:
    """Return why the text is no program that defines `f` and uses nothing banned, or None if it is one."""
    if len(source) > config.max_program_characters:
        return Rejection.TOO_LONG
    tree = parse(source)
    if tree is None:
        return Rejection.SYNTAX
    if not any(isinstance(node, ast.FunctionDef) and node.name == ENTRY for node in tree.body):
        return Rejection.NO_FUNCTION
    longest = max((name.count(".") + 1 for name in config.banned), default=0)
    used = {prefix for name in used_names(tree) for prefix in _prefixes(name, longest)}
    return Rejection.BANNED if used & set(config.banned) else None


def check_inputs(inputs: Sequence[str], config: AzrConfig) -> Rejection | None:
    """Return why some text is not the literal arguments of one call, or None if each is."""
    if any(len(text) > config.max_value_characters for text in inputs):
        return Rejection.TOO_LONG
    return None if all(arguments(text) is not None for text in inputs) else Rejection.SYNTAX


def parse(source: str) -> ast.Module | None:
    """Parse a program without warnings; return None for what Python's parser cannot read or finds nested too deeply."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def arguments(text: str) -> list[ast.expr] | None:
    """Return the arguments in `text`, or None if it is anything but positional arguments."""
    tree = parse(f"{ENTRY}({text}\n)")
    match tree and tree.body:
        case [ast.Expr(ast.Call(ast.Name(name), list(given), []))] if name == ENTRY:
            return None if any(isinstance(argument, ast.Starred) for argument in given) else given
    return None


def used_names(tree: ast.Module) -> Iterator[str]:
    """Yield the modules, dotted names and functions called by name that the program uses, and `raise`. A chain of
    attributes is yielded once, as a whole, so that the time is linear in its length."""
    nodes = list(ast.walk(tree))
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Attribute() if id(node) not in inner:
                yield _dotted(node)
            case ast.Call(func=ast.Name(id=name)):
                yield name
            case ast.Raise():
                yield "raise"


def _program_and_input(blocks: Blocks) -> Proposal | Rejection:
    program, given = last_block(blocks, "python"), last_block(blocks, "input")
    return Proposal(program, (given,)) if program and given else Rejection.FORMAT


def _inputs_and_message(blocks: Blocks, program: str, config: AzrConfig) -> Proposal | Rejection:
    """Read the first `inputs_per_program` different inputs, and the message."""
    inputs = tuple(dict.fromkeys(text for text in blocks.get("input", []) if text))[: config.inputs_per_program]
    message = last_block(blocks, "message")
    if message is None or not inputs:
        return Rejection.FORMAT
    return Proposal(program, inputs, message) if len(inputs) > 1 else Rejection.FEW_INPUTS


def _dotted(node: ast.expr) -> str:
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    names.append(node.id if isinstance(node, ast.Name) else "")
    return ".".join(reversed(names))


def _prefixes(name: str, longest: int) -> Iterator[str]:
    """Yield the beginnings of a dotted name, up to `longest` parts."""
    parts = name.split(".", longest)[:longest]
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))
