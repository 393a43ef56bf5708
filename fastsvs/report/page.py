"""Builder of one HTML file from a document and the assets, with styles, scripts and libraries inside.

The page fetches nothing. Its data are gzip chunks in base64, so that no text that a policy wrote stands there as
markup. The policy of the page allows scripts and styles by their hashes alone, and no network (only the page's own
server when it is live).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from importlib.resources import files
from typing import Any

from fastsvs.report.bundle import bundle
from fastsvs.report.document import Document

ASSETS = files("fastsvs.report").joinpath("assets")
STYLES = (
    "vendor/uPlot.min.css",
    "vendor/Temml-Local.css",
    "base.css",
    "tables.css",
    "figures.css",
    "browser.css",
    "family.css",
    "tokens.css",
    "answers.css",
    "narrow.css",
)
LIBRARIES = ("vendor/uPlot.iife.min.js", "vendor/temml.min.js")
LICENCES = ("vendor/uPlot.LICENSE", "vendor/Temml.LICENSE")


def page(document: Document) -> str:
    """Return the whole report as one file."""
    chunks: dict[str, Any] = {"head": document.head}
    chunks |= {f"groups/{run}": groups for run, groups in enumerate(document.groups)}
    chunks |= {f"texts/{run}/{step}": texts for (run, step), texts in document.texts.items()}
    chunks |= {f"tokens/{run}/{step}": tokens for (run, step), tokens in document.tokens.items()}
    for sheet, answers in enumerate(document.answers):
        chunks[f"answers/{sheet}"] = answers.problems
        chunks |= {f"responses/{sheet}/{number}": block for number, block in enumerate(answers.blocks)}
        chunks |= {f"response_tokens/{sheet}/{number}": block for number, block in enumerate(answers.tokens) if block}
    data = "\n".join(
        f'<script type="application/octet-stream" data-chunk="{name}">{base64.b64encode(pack(value)).decode()}</script>'
        for name, value in chunks.items()
    )
    return _assemble(_title(document), data, live=False)


def live_page(document: Document) -> str:
    """Return the same page without data; it polls the server that it came from for them."""
    return _assemble(_title(document), "", live=True)


def pack(value: Any) -> bytes:
    """Return the value as compressed JSON, with equal bytes for equal values."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return gzip.compress(text.encode(errors="replace"), 6, mtime=0)  # a lone surrogate has no bytes


def modules() -> dict[str, str]:
    """Return the text of our own ES modules by file name."""
    names = sorted(file.name for file in ASSETS.joinpath("scripts").iterdir())
    return {name: _read(f"scripts/{name}") for name in names}


def policy(style: str, script: str, live: bool) -> str:
    """Return the Content-Security-Policy. It allows styles in attributes, which the renderer's MathML has."""
    rules = {
        "default-src": "'none'",
        "script-src": _source_hash(script),
        "style-src-elem": _source_hash(style),
        "style-src-attr": "'unsafe-inline'",
        "img-src": "data:",
        "connect-src": "'self'" if live else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _assemble(title: str, data: str, live: bool) -> str:
    style = "\n".join(_style(name) for name in STYLES)
    script = _scripts()
    parts = {
        "title": html.escape(title),
        "policy": html.escape(policy(style, script, live), quote=True),
        "live": "true" if live else "false",
        "style": style,
        "data": data,
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("page.html"))


def _style(name: str) -> str:
    if not name.startswith("vendor/"):
        return _read(f"styles/{name}")
    return re.sub(r"@font-face \{.*?\}\n", "", _read(name), flags=re.DOTALL)  # a file of its own, which one page lacks


def _scripts() -> str:
    """Return the libraries under their licences, then our own modules."""
    licences = "\n".join(f"/*\n{_read(name)}*/" for name in LICENCES)
    libraries = "\n".join(_read(name) for name in LIBRARIES)
    return f"{licences}\n{libraries}\n{bundle(modules())}"


def _read(name: str) -> str:
    return ASSETS.joinpath(name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _title(document: Document) -> str:
    if "folders" in document.head:
        return "Runs · FastSvS"
    labels = [arm["label"] for arm in document.head["arms"]] or [each["name"] for each in document.head["evaluations"]]
    noun = "experiments" if document.head["arms"] else "evaluations"
    title = f"{' and '.join(labels) if len(labels) < 3 else f'{len(labels)} {noun}'} · FastSvS"
    return title.encode(errors="replace").decode()  # a lone surrogate has no bytes
