"""Bundler of the page's ES modules into one script.

A page that opens from a disk can import no file, so the build does what `import` would do. Each module becomes the body
of a function, which keeps its names to itself and returns what it exports; it runs after the modules that it imports.
Modules are written in the two forms that need no parser, each at the start of a line:

    import { name, other } from "./module.js";
    export function name() {}                    (or async function, class, const)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

IMPORT = re.compile(r'^import \{(\s*[\w$]+(?:,\s*[\w$]+)*,?\s*)\} from "\./([\w.]+)";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:function|async function|class|const) ([\w$]+))", re.MULTILINE)
OTHER_FORM = re.compile(r"(?:^[ \t]*(?:import|export)\b|\bimport\().*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Module:
    """One source file, taken apart."""

    imports: dict[str, frozenset[str]]
    """Names that are imported, by the file that exports them."""
    exports: tuple[str, ...]
    body: str
    """Code in which the imports are constants and nothing is exported."""


def bundle(sources: Mapping[str, str]) -> str:
    """Return one script that runs all modules, given as text by file name.

    Raises ValueError for an import or export in another form, for a name that is imported but not exported, and for
    modules that import one another in a circle.
    """
    modules = {name: parse(name, source) for name, source in sources.items()}
    wrapped = "".join(_wrapped(name, modules[name]) for name in in_order(modules))
    return f'(() => {{\n"use strict";\nconst modules = {{}};\n{wrapped}}})();\n'


def parse(name: str, source: str) -> Module:
    """Take the text of a module apart. Raises ValueError for an import or export in another form."""
    imports: dict[str, frozenset[str]] = {}
    for match in IMPORT.finditer(source):
        imports[match[2]] = imports.get(match[2], frozenset()) | frozenset(re.findall(r"[\w$]+", match[1]))
    exports = tuple(match[1] for match in EXPORT.finditer(source))
    body = EXPORT.sub("", IMPORT.sub(lambda match: f'const {{{match[1]}}} = modules["{match[2]}"];', source))
    if other := OTHER_FORM.search(body):
        raise ValueError(
            f'{name}: the bundler knows `import {{ name }} from "./module.js";` and `export` before a function, class '
            f"or const, not {other[0].strip()!r}"
        )
    return Module(imports, exports, body)


def in_order(modules: Mapping[str, Module]) -> list[str]:
    """Return the file names, each after those that it imports.

    Raises ValueError for a name that is imported but not exported, and for modules that import one another in a circle.
    """
    for name, module in modules.items():
        for source, names in module.imports.items():
            if source not in modules:
                raise ValueError(f"{name} imports {source}, which is not there")
            if missing := sorted(names.difference(modules[source].exports)):
                raise ValueError(f"{name} imports {', '.join(missing)}, which {source} does not export")
    try:
        return list(TopologicalSorter({name: module.imports for name, module in modules.items()}).static_order())
    except CycleError as error:
        circle = " imports ".join(reversed(error.args[1]))
        raise ValueError(f"modules import one another in a circle: {circle}") from error


def _wrapped(name: str, module: Module) -> str:
    return f'modules["{name}"] = (() => {{\n{module.body}\nreturn {{ {", ".join(module.exports)} }};\n}})();\n'
