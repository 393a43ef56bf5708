"""The receiving side: vLLM's weight routes over HTTP, its workers' receiving code, and parameters to load into.

It stands for one vLLM worker without the model. Loading is one copy into memory that is there already, which is what
vLLM does for weights that it need not repack. POST /plain takes part in a broadcast of bare bytes.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import torch
from torch import Tensor

from fastsvs.network import local_address
from fastsvs.sync.group import Group, join_store
from fastsvs.sync.receive import BroadcastReceiver, InitInfo, MemoryReceiver, UpdateInfo

RECEIVERS = {"broadcast": BroadcastReceiver, "ipc": MemoryReceiver}


class Worker:
    def __init__(self, transport: str, device: torch.device) -> None:
        self._transport, self._device = transport, device
        self._parameters: dict[str, Tensor] = {}

    def init_weight_transfer_engine(self, init_info: dict) -> None:
        self._receiver = RECEIVERS[self._transport](InitInfo(**init_info), 0, self._device)

    def update_weights(self, update_info: dict) -> None:
        self._receiver.receive(UpdateInfo(**update_info), self._load)
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def join_plain(self, address: str, port: int, nbytes: int) -> None:
        store = join_store(address, port, 600)
        self._plain = Group(store, 1, 2, local_address(address), 600, self._device)
        self._bytes = torch.zeros(nbytes, dtype=torch.uint8, device=self._device)

    def plain(self) -> None:
        self._plain.broadcast(self._bytes).wait()
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _load(self, tensors: list[tuple[str, Tensor]]) -> None:
        for name, tensor in tensors:
            if name in self._parameters:
                self._parameters[name].copy_(tensor)
            else:
                self._parameters[name] = tensor.clone()


class Routes(BaseHTTPRequestHandler):
    worker: Worker

    def do_GET(self) -> None:
        self._answer({"world_size": 1})

    def do_POST(self) -> None:
        arguments = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        action = getattr(self.worker, urlsplit(self.path).path[1:], None)
        if action is not None:
            action(**arguments)
        self._answer({})

    def _answer(self, value: dict) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None: ...


def main(transport: str, device: str) -> None:
    torch.set_num_threads(1)
    if device != "cpu":
        torch.cuda.set_device(torch.device(device))
    Routes.worker = Worker(transport, torch.device(device))
    server = HTTPServer(("127.0.0.1", 0), Routes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()  # ends with the process that started this one


if __name__ == "__main__":
    main(*sys.argv[1:])
