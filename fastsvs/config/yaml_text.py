"""YAML as configurations use it: plain values under keys that stand once, of a size that can be shown.

It is PyYAML's safe loader, which would keep the last of two equal keys, read dates and times of day as other types, and
take Python's word None for a text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fastsvs.errors import UserError

LARGEST = 100_000
"""Maximum number of values in a configuration, counting what an alias stands for each time it stands there."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(text: str, where: str) -> Any:
    """Return what the YAML `text` holds. Raises UserError, which begins with `where`, for text that is no YAML, for a
    key that stands twice, for half a character, and for aliases without end."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > LARGEST:
            raise UserError(f"{where}: its aliases (*name) make more than {LARGEST:,} values: write out what is needed")
        _check_nodes(node, where)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(f"{where} cannot be read as YAML: {error}") from error
    except RecursionError as error:
        raise UserError(f"{where} cannot be read as YAML: it is nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{where} cannot be read as YAML: {error}") from error


def write(tree: Any) -> str:
    """Return `tree` as YAML that `parse` reads back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """The safe loader with other rules for bare words."""


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which quotes what `_Loader` would not read as a text."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> Node:
    """Escape the line breaks of Unicode, which are read back as blanks otherwise."""
    breaks = any(character in text for character in "\x85\u2028\u2029")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if breaks else None)


_Dumper.add_representer(str, _write_text)
_NULL = ("tag:yaml.org,2002:null", re.compile(r"None\Z"), ["N"])
_UNWANTED = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _UNWANTED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(*_NULL)
_Dumper.add_implicit_resolver(*_NULL)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)\Z"), list("-+0123456789")
)


def _size(node: Node, sizes: dict[int, int]) -> int:
    """Return the number of values that `node` stands for. Each node is visited once, however often it is named."""
    if id(node) not in sizes:
        sizes[id(node)] = LARGEST  # a node that holds itself is too large
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in _children(node))
    return sizes[id(node)]


def _check_nodes(root: Node, where: str) -> None:
    seen: set[int] = set()
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        nodes += _children(node)
        if isinstance(node, MappingNode):
            _check_mapping(node, where)
        if isinstance(node, ScalarNode) and _SURROGATE.search(node.value):
            line = node.start_mark.line + 1
            raise UserError(f"{where} line {line}: {node.value!r} holds half a character (a lone surrogate)")


def _check_mapping(node: MappingNode, where: str) -> None:
    lines: dict[Hashable, int] = {}
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise UserError(f"{where} line {key.start_mark.line + 1}: a key must be a word")
        line = key.start_mark.line + 1
        if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
            raise UserError(
                f"{where}: the key {key.value!r} stands twice, in line {lines[key.value]} and in line {line}, where "
                "one value would hide the other: keep one, or join the two"
            )
        lines[key.value] = line


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []
