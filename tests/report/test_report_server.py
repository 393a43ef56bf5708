"""The live page's server: what it answers, and what it refuses."""

from __future__ import annotations

import gzip
import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hand_made import CONTEXT, metrics, write_run

from fastsvs.cli import main
from fastsvs.files import append_jsonl
from fastsvs.report.runs import Runs
from fastsvs.report.server import _Handler, open_server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@contextmanager
def served(run: Path) -> Iterator[int]:
    with open_server(Runs([run], 1000), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def port(run: Path) -> Iterator[int]:
    with served(run) as port:
        yield port


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply.status, dict(reply.getheaders()), body


def data(body: bytes) -> Any:
    return json.loads(gzip.decompress(body))


def test_the_page_and_its_data(port: int) -> None:
    status, headers, body = ask(port, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b'data-live="true"' in body
    assert data(ask(port, "/data/head")[2])["runs"][0]["headline"]["steps"] == 4
    assert len(data(ask(port, "/data/groups/0")[2])["steps"]) == 4
    assert data(ask(port, "/data/texts/0/3")[2])["000000"][1] == CONTEXT


def test_what_has_not_changed_is_not_sent_again(port: int, run: Path) -> None:
    _, headers, _ = ask(port, "/data/head")
    status, again, body = ask(port, "/data/head", If_None_Match=headers["ETag"])
    assert (status, body, again["ETag"]) == (304, b"", headers["ETag"])
    append_jsonl(run / "metrics.jsonl", metrics(5))
    status, _, body = ask(port, "/data/head", If_None_Match=headers["ETag"])
    assert status == 200
    assert data(body)["runs"][0]["metrics"]["step"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "path",
    [
        "/config.yaml",
        "/data/",
        "/data/groups/1",
        "/data/groups/-1",
        "/data/texts/0/9",
        "/data/texts/0/../../etc/passwd",
        "/../run/config.yaml",
        "/favicon.ico",
        f"/data/groups/{'9' * 5000}",
        f"/data/groups/{'0' * 5000}",
        f"/data/texts/0/{'9' * 60_000}",
        f"/data/texts/{'9' * 399}/{'9' * 399}",
        f"/data/head?step={'9' * 5000}",
    ],
)
def test_other_paths_are_not_there(port: int, path: str) -> None:
    assert ask(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods_are_not_there(port: int, method: str) -> None:
    assert ask(port, "/", method)[0] == 501


@pytest.mark.parametrize("host", ["example.com", "127.0.0.1", "127.0.0.1.example.com:{port}", "localhost:1"])
def test_another_host_is_refused(port: int, host: str) -> None:
    assert ask(port, "/data/head", Host=host.format(port=port))[0] == 403
    assert ask(port, "/data/head", Host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "9" * 5000},
        {"Content-Length": "-1"},
        {"Range": f"bytes={'9' * 5000}-{'9' * 6000}"},
        {"If-None-Match": "9" * 60_000},
        {"Transfer-Encoding": "chunked"},
        {"Expect": "100-continue"},
    ],
)
def test_headers_that_make_no_sense_change_nothing(
    port: int, headers: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert ask(port, "/data/head", **headers)[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/" + b"9" * 5000 + b".1",
        b"GET / HTTP/1." + b"9" * 5000,
        b"GET /" + b"9" * 70_000 + b" HTTP/1.1",
        b"\xff\xfe \x00 HTTP/1.1",
        b"GET",
        b"GET /data/groups/\xb2 HTTP/1.1",
    ],
)
def test_lines_that_are_no_requests_are_answered_or_hung_up_on(
    port: int, request_line: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request_line + b"\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
        connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.makefile("rb").read()
        except ConnectionResetError:
            answer = b""
    assert b"Traceback" not in answer
    assert not answer.startswith(b"HTTP/1.1 2")
    assert ask(port, "/data/head")[0] == 200
    assert capfd.readouterr().err == ""


def test_downloads_that_are_broken_off_are_nothing_to_speak_of(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps(metrics(1) | {f"noise/{n}": hash((n, 1)) % 10**9 for n in range(200_000)})]
    (run / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    with served(run) as port:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.sendall(b"GET /data/head HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
                assert connection.recv(10)
        assert len(ask(port, "/data/head")[2]) > 1_000_000
    assert capfd.readouterr().err == ""


def test_a_browser_that_falls_silent_is_hung_up_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_Handler, "timeout", 0.2)
    with served(run) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET / HT")
        assert connection.recv(10) == b""
    assert capfd.readouterr().err == ""


def notices(port: int) -> list[str]:
    status, _, body = ask(port, "/data/head")
    assert status == 200
    return data(body)["runs"][0]["notices"]


def test_a_spoiled_run_is_said_and_recovers(port: int, run: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text("a: [1")
    [notice] = notices(port)
    assert f"{run}/config.yaml is not YAML" in notice
    (run / "config.yaml").write_text(config)
    assert notices(port) == []


def test_a_run_that_is_gone_is_said_and_recovers(port: int, run: Path) -> None:
    run.rename(run.with_name("elsewhere"))
    status, _, body = ask(port, "/data/head")
    assert (status, b"no file or folder" in body) == (503, True)
    run.with_name("elsewhere").rename(run)
    assert ask(port, "/data/head")[0] == 200


def test_a_port_that_is_taken_is_named(port: int, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--serve", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_ctrl_c_ends_it(run: Path) -> None:
    command = [sys.executable, "-u", "-m", "fastsvs", "report", "--serve", str(run), "--port", "0"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a background job ignores, its children do
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert process.stdout is not None
        assert "report on http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, errors) == (0, "")
