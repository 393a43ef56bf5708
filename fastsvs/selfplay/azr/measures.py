"""Measures of how complex a program is and how far it is from others.

They are the intrinsic terms of a proposal's reward. All take time linear in the size of the program.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import log2

from fastsvs.config import AzrConfig, IntrinsicConfig, TermConfig
from fastsvs.selfplay.azr.exercises import Buffer, Exercise
from fastsvs.selfplay.azr.proposals import arguments, parse

_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.match_case)
_SILENT = (ast.Module, ast.arguments, ast.Expr, ast.expr_context)
"""Nodes that stand for nothing in the text."""
_PLAIN = (str, bytes, int, float, complex)
_OPERANDS = (ast.Name, ast.arg, ast.Constant)

Label = tuple[str, object]


def intrinsic_reward(exercise: Exercise, references: Sequence[str], buffer: Buffer, config: AzrConfig) -> float:
    """Return the sum of min(coefficient x, max) over the terms that are on; `buffer` is as it was before the step."""
    terms = config.intrinsic
    reward = 0.0
    if terms.complexity.coefficient:
        reward += _term(terms.complexity, complexity(exercise.program, terms))
    if terms.edit_distance.coefficient:
        reward += _term(terms.edit_distance, edit_distance(exercise.program, references))
    if terms.halstead.coefficient:
        reward += _term(terms.halstead, halstead_volume(exercise.program))
    if terms.input_types.coefficient:
        known = [types(other.inputs[0]) for other in buffer.exercises]
        reward += _term(terms.input_types, rarity(types(exercise.inputs[0]), known))
    if terms.output_types.coefficient:
        known = [types(other.outputs[0]) for other in buffer.exercises]
        reward += _term(terms.output_types, rarity(types(exercise.outputs[0]), known))
    return reward


def complexity(program: str, terms: IntrinsicConfig) -> float:
    return float(nodes(program) if terms.complexity_measure == "nodes" else cyclomatic(program))


def nodes(program: str) -> int:
    """Count the nodes of the syntax tree that stand for something in the text."""
    return sum(labels(program).values())


def cyclomatic(program: str) -> int:
    """Return McCabe's complexity: 1 + the number of branches, loops, handlers, assertions, comprehensions and their
    conditions, `and` and `or`."""
    count = 1
    for node in ast.walk(_tree(program)):
        count += isinstance(node, _BRANCHES)
        if isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
    return count


def edit_distance(program: str, references: Sequence[str]) -> float:
    """Return the distance to the nearest of the references, from 0 to 1, or 1 when there are none.

    Between two programs it is the bag distance of their labelled nodes, max(|A - B|, |B - A|), over the number of nodes
    of the larger tree. No edit distance of the trees is smaller than the bag distance.
    """
    own = labels(program)
    return min((_distance(own, labels(reference)) for reference in references), default=1.0)


def halstead_volume(program: str) -> float:
    """Return Halstead's volume in bits, N log2 n, for N operators and operands of which n are different.

    Operands are names, arguments and constants; operators are all other nodes.
    """
    found = labels(program)
    return sum(found.values()) * log2(max(len(found), 1))


@lru_cache(maxsize=1 << 16)  # the whole buffer's are asked for again with every proposal
def types(text: str) -> tuple[str, ...]:
    """Return the type of each argument, or of an output: int, str, List, Tuple, Dict, Set, ..."""
    return tuple(
        type(node.value).__name__ if isinstance(node, ast.Constant) else type(node).__name__
        for node in map(_without_sign, arguments(text) or [])
    )


def rarity(kind: tuple[str, ...], known: Sequence[tuple[str, ...]]) -> float:
    """Return 1 - the share of `known` that is of this kind."""
    return 1 - known.count(kind) / len(known) if known else 1.0


def labels(program: str) -> Counter[Label]:
    """Count the syntax tree's nodes by (type, name or value)."""
    return Counter(_label(node) for node in _nodes(program))


def _nodes(program: str) -> Iterator[ast.AST]:
    return (node for node in ast.walk(_tree(program)) if not isinstance(node, _SILENT))


def _tree(program: str) -> ast.Module:
    return parse(program) or ast.Module([], [])


def _label(node: ast.AST) -> Label:
    named = (getattr(node, field) for field in ("id", "arg", "attr", "name", "value") if hasattr(node, field))
    name = next(named, None)
    kind = "operand" if isinstance(node, _OPERANDS) else type(node).__name__
    return kind, name if isinstance(name, _PLAIN) else None


def _distance(one: Counter[Label], other: Counter[Label]) -> float:
    larger = max(one.total(), other.total())
    return max((one - other).total(), (other - one).total()) / larger if larger else 0.0


def _without_sign(node: ast.expr) -> ast.expr:
    return node.operand if isinstance(node, ast.UnaryOp) else node


def _term(term: TermConfig, x: float) -> float:
    return min(term.coefficient * x, term.max)
