"""The live page: a server on loopback that answers only GET of the page and of the data that it draws.

A page of another site must not read a run through a name that it points to this machine (DNS rebinding): a request for
another host than this one is refused.
"""

from __future__ import annotations

import hashlib
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from fastsvs.errors import UserError
from fastsvs.report.runs import Answer

HOST = "127.0.0.1"
SILENCE_SECONDS = 60.0
"""Longest wait for a browser to take or to send something, in seconds; then its connection is closed."""


class Source(Protocol):
    """Source of a server's answers."""

    def answer(self, path: str) -> Answer | None: ...


def open_server(given: Source, port: int) -> ThreadingHTTPServer:
    """Open a server on loopback; port 0 takes a free one. Raises UserError when the port is taken."""

    class Handler(_Handler):
        source = given

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
    source: Source
    timeout = SILENCE_SECONDS
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "FastSvS", ""

    def do_GET(self) -> None:
        if not self._is_for_this_host():
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"this server answers on loopback only\n")
            return
        try:
            answer = self.source.answer(self.path)
        except (UserError, OSError) as error:  # a run folder that was moved or locked, a file that was spoiled
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
