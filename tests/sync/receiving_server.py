"""A rollout server without vLLM: its weight routes over real HTTP, with the receiving code of vLLM's workers behind.

`serve` is for a process of its own: it tells its port and serves until it is killed or whoever started it is gone.
GET /tensors/PATH saves what it holds to PATH.
POST /misbehave?how= makes updates go wrong: `corrupt:NAME`, `die` or `stall` (in the second bucket), `refuse`,
`refuse_start` (once), `leave` (the group, while weights are staged), `late` (staging ends a while after all was sent,
and a call `staged` is noted then). Like vLLM it starts no update before the last one
has ended or failed.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlsplit

import torch
from torch import Tensor

from fastsvs.sync.receive import BroadcastReceiver, InitInfo, MemoryReceiver, Seat, UpdateInfo

KINDS = {"broadcast": BroadcastReceiver, "ipc": MemoryReceiver}


class Worker:
    """One of the server's processes (here: threads) that hold weights."""

    def __init__(self, kind: str, seat: Seat) -> None:
        self.kind, self.seat = kind, seat
        self.receiver: BroadcastReceiver | None = None
        self.tensors: dict[str, Tensor] = {}
        self.fault = ""

    def init(self, info: dict) -> None:
        self.receiver = KINDS[self.kind](InitInfo(**info), self.seat, torch.device("cpu"))

    def stage(self, info: dict) -> None:
        assert self.receiver is not None
        if self.fault == "late":
            self.receiver._arriving = late(self.receiver)  # type: ignore[method-assign]
        self.receiver.stage(UpdateInfo(**info))
        if self.fault == "leave":
            self.receiver.close()

    def update(self, info: dict) -> None:
        assert self.receiver is not None
        self.receiver.receive(UpdateInfo(**info), self.load)

    def load(self, tensors: list[tuple[str, Tensor]]) -> None:
        second = bool(self.tensors)
        if self.fault == "refuse":
            raise KeyError(f"no parameter {tensors[0][0]}")
        if second and self.fault == "die":
            os._exit(9)
        if second and self.fault == "stall":
            time.sleep(3600)
        self.tensors |= {name: tensor.clone() for name, tensor in tensors}


def late(receiver: BroadcastReceiver):  # type: ignore[no-untyped-def]
    original = receiver._arriving

    def arriving(*arguments):  # type: ignore[no-untyped-def]
        yield from original(*arguments)
        time.sleep(0.5)
        Server.calls.append("staged")

    return arriving


def flipping(receiver: BroadcastReceiver, name: str):  # type: ignore[no-untyped-def]
    original = receiver._arriving

    def spoiled(info, buckets, check):  # type: ignore[no-untyped-def]
        for index, arrival in enumerate(original(info, buckets, check)):
            for part in receiver._checked(index, buckets[index], arrival.buffers):
                if part.name == name:
                    part.values.view(-1).view(torch.uint8)[-1] ^= 1
            yield arrival

    return spoiled


class Server(BaseHTTPRequestHandler):
    workers: list[Worker]
    key: str
    calls: list[str]
    version = ""
    updating = False

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer({})
        elif self.headers["Authorization"] != f"Bearer {self.key}":
            self.answer({"error": "no key"}, 401)
        elif self.path.startswith("/get_world_size"):
            self.answer({"world_size": len(self.workers)})
        elif self.path == "/weight_info":
            self.answer({"weight_version": type(self).version})
        elif self.path == "/calls":
            self.answer(self.calls)
        else:
            torch.save([worker.tensors for worker in self.workers], self.path.removeprefix("/tensors"))
            self.answer({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        route = urlsplit(self.path)
        try:
            assert self.headers["Authorization"] == f"Bearer {self.key}"
            self.calls.append(self.path)
            self.act(route.path, parse_qs(route.query), body)
        except Exception as error:
            self.answer({"error": {"message": f"{type(error).__name__}: {error}", "code": 500}}, 500)
        else:
            self.answer({"message": "done"})

    def act(self, route: str, query: dict[str, list[str]], body: dict) -> None:
        if route == "/misbehave":
            for worker in self.workers:
                worker.fault = query["how"][0]
        elif route == "/init_weight_transfer_engine":
            self.on_all(Worker.init, body["init_info"])
        elif route == "/collective_rpc":
            assert body["method"] == "stage_weights"
            self.spoil()
            self.on_all(Worker.stage, body["kwargs"]["info"])
        elif route == "/start_weight_update":
            assert not self.updating, "an update is already active"
            if self.workers[0].fault == "refuse_start":
                self.workers[0].fault = ""
                raise RuntimeError("not today")
            type(self).updating = True
            for worker in self.workers:
                worker.tensors = {}
        elif route == "/update_weights":
            assert self.updating
            self.spoil()
            try:
                self.on_all(Worker.update, body["update_info"])
            except BaseException:
                type(self).updating = False
                raise
        elif route == "/finish_weight_update":
            assert self.updating, "no update is active"
            type(self).updating = False
            type(self).version = body.get("weight_version", self.version)
            for blocks in filter(None, (worker.receiver and worker.receiver.blocks for worker in self.workers)):
                blocks.trusted = True

    def spoil(self) -> None:
        """Have one bit of a tensor arrive changed."""
        fault, _, name = self.workers[0].fault.partition(":")
        for worker in self.workers if fault == "corrupt" else ():
            assert worker.receiver is not None
            worker.receiver._arriving = flipping(worker.receiver, name)  # type: ignore[method-assign]

    def on_all(self, method, info: dict) -> None:  # type: ignore[no-untyped-def]
        failures: list[Exception] = []

        def run(worker: Worker) -> None:
            try:
                method(worker, info)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(worker,), daemon=True) for worker in self.workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def answer(self, value: object, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None: ...


def serve(kind: str, workers: int, key: str, line: Connection) -> None:
    Server.workers = [Worker(kind, Seat(number, number, workers)) for number in range(workers)]
    Server.key, Server.calls = key, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    line.send(server.server_port)
    server.serve_forever()


def _end_with(line: Connection) -> None:
    with suppress(EOFError, ConnectionError):
        line.recv()
    os._exit(0)
