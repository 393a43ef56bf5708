"""The live page: a server on loopback that answers only GET of the page and of the data that it draws.

A page of another site must not read a run through a name that it points to this machine (DNS rebinding): a request for
another host than this one is refused.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fastsvs.errors import UserError
from fastsvs.report.document import Document, build
from fastsvs.report.page import live_page, pack
from fastsvs.stored_evaluation import EvaluationLayout, is_evaluation
from fastsvs.stored_run import StoredRun

HOST = "127.0.0.1"
NUMBER = re.compile("[0-9]{1,400}")
"""Number of a run, step, sheet or block in a path: longer ones than a file's name has there are not."""
SILENCE_SECONDS = 60.0
"""Longest wait for a browser to take or to send something, in seconds; then its connection is closed."""


class Runs:
    """The document of some run folders, built again when their files have changed."""

    def __init__(self, paths: Sequence[Path], samples: int) -> None:
        self._paths, self._samples = paths, samples
        self._lock = threading.Lock()
        self._state: Any = None
        self._document = self.document()

    def document(self) -> Document:
        with self._lock:
            state = self._files()
            if state != self._state:
                self._document = build(self._paths, self._samples)
                self._state = state
            return self._document

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Return the content type and body of a known path, None for any other. Data are JSON under gzip."""
        document = self.document()
        if path == "/":
            return "text/html; charset=utf-8", live_page(document).encode()
        data = self._data(document, path.removeprefix("/data/").split("/")) if path.startswith("/data/") else None
        return None if data is None else ("application/octet-stream", pack(data))

    def _data(self, document: Document, names: Sequence[str]) -> Any:
        match names:
            case ["head"]:
                return document.head
            case ["groups", run] if NUMBER.fullmatch(run) and int(run) < len(document.groups):
                return document.groups[int(run)]
            case ["texts", run, step] if NUMBER.fullmatch(run) and NUMBER.fullmatch(step):
                return document.texts.get((int(run), int(step)))
            case ["answers", sheet] if NUMBER.fullmatch(sheet) and int(sheet) < len(document.answers):
                return document.answers[int(sheet)].problems
            case ["responses", sheet, block] if NUMBER.fullmatch(sheet) and NUMBER.fullmatch(block):
                blocks = document.answers[int(sheet)].blocks if int(sheet) < len(document.answers) else []
                return blocks[int(block)] if int(block) < len(blocks) else None
        return None

    def _files(self) -> list[tuple[str, int, int]]:
        """Return (path, modification time, size) of every file that the document is built from, to find out what
        changed."""
        states = []
        for file in (file for path in self._paths for file in _records(path)):
            try:
                state = file.stat()
            except OSError:  # replaced just now
                continue
            states.append((str(file), state.st_mtime_ns, state.st_size))
        return sorted(states)


def _records(path: Path) -> list[Path]:
    return EvaluationLayout(path).records() if is_evaluation(path) else StoredRun(path).records()


def open_server(runs: Runs, port: int) -> ThreadingHTTPServer:
    """Open a server on loopback; port 0 takes a free one. Raises UserError when the port is taken."""

    class Handler(_Handler):
        source = runs

    try:
        return _Server((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {HOST}:{port}: {error}; choose another with --port") from error


class _Server(ThreadingHTTPServer):
    """A server to which a browser that goes away in the middle of an answer is nothing to speak of."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    source: Runs
    timeout = SILENCE_SECONDS
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "FastSvS", ""

    def do_GET(self) -> None:
        if not self._is_for_this_host():
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"this server answers on loopback only\n")
            return
        try:
            answer = self.source.answer(self.path)
        except UserError as error:  # a run folder that was moved, a file that was spoiled
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", f"{error}\n".encode())
            return
        if answer is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"no such page\n")
            return
        kind, body = answer
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        if self.headers.get("If-None-Match") == tag:
            self._send(HTTPStatus.NOT_MODIFIED, kind, b"", tag)
        else:
            self._send(HTTPStatus.OK, kind, body, tag)

    def _is_for_this_host(self) -> bool:
        _, port = self.connection.getsockname()
        return self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}")

    def _send(self, status: HTTPStatus, kind: str, body: bytes, tag: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: requests are not worth a line each."""
