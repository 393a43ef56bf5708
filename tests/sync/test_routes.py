"""The routes for weights against servers that do not behave, and against want of files here."""

from __future__ import annotations

import errno
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from fastsvs.errors import EngineFailure
from fastsvs.sync import Endpoint, routes
from fastsvs.sync.calls import Calls, Deadline, ServersFailedError
from fastsvs.sync.routes import RefusedError, Routes, UnreachableError


@contextmanager
def server(answer: bytes) -> Iterator[Endpoint]:
    """A server that gives everybody the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    with suppress(OSError):
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield Endpoint("a", f"http://127.0.0.1:{listening.getsockname()[1]}", "key", 1)
        listening.shutdown(socket.SHUT_RDWR)


def says(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"", UnreachableError),
        (b"SSH-2.0-OpenSSH\r\n", UnreachableError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", UnreachableError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nwhat?\r\n", UnreachableError),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 100_000, UnreachableError),
        (b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000 + b"\r\n{}", UnreachableError),
        (says(b"<html>"), RefusedError),
        (says(b"[" * 100_000), RefusedError),
        (says(b"\xff\xfe"), RefusedError),
        (says(b"null"), RefusedError),
        (says(b'{"world_size": [1]}'), RefusedError),
        (says(b" " * 3000), RefusedError),
        (says(b"", "307 Temporary Redirect", "Location: http://127.0.0.1:9/"), RefusedError),
        (says(b'{"error": {"message": "no"}}', "500 Oops"), RefusedError),
        (says(b"[" * 100_000, "500 Oops"), RefusedError),
        (says(b"x" * 100_000, "401 Unauthorized"), RefusedError),
    ],
)
def test_a_rude_server_is_a_failure_of_its_own(
    answer: bytes, fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "LARGEST", 2000)
    with server(answer) as endpoint, pytest.raises(fault) as caught:
        Routes(endpoint).workers(5.0)
    assert len(str(caught.value)) < 3000


class Scarce:
    """An opener of a process that may open no more files, the first `times`."""

    def __init__(self, times: int) -> None:
        self.times = times

    def open(self, request: Any, timeout: float) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise urllib.error.URLError(OSError(errno.EMFILE, "Too many open files"))
        return urllib.request.build_opener().open(request, timeout=timeout)


def test_want_of_files_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_OPENER", Scarce(3))
    with server(says(b'{"world_size": 2}')) as endpoint:
        assert Routes(endpoint).workers(1.0) == 2


def test_want_of_files_that_lasts_is_no_servers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_OPENER", Scarce(10**9))
    with server(says(b"{}")) as endpoint:
        calls = Calls([Routes(endpoint)], lambda routes: routes.workers(0.5))
        with pytest.raises(EngineFailure, match="this process can open no more files") as caught:
            calls.results(Deadline(5.0))
    assert not isinstance(caught.value, ServersFailedError)
