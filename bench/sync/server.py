"""The receiving side: vLLM's weight routes over HTTP, its workers' receiving code, and parameters to load into.

It stands for one vLLM worker without the model, or for one of a server of several. Loading is one copy of the worker's
part into memory that is there already, which is what vLLM does for weights that it need not repack. POST /plain takes
part in a broadcast of bare bytes.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import torch
from torch import Tensor

from fastsvs.architecture import load_hf_config, read_architecture
from fastsvs.blocks import Block
from fastsvs.network import local_address
from fastsvs.sync.group import Group, join_store
from fastsvs.sync.receive import BroadcastReceiver, InitInfo, MemoryReceiver, Seat, UpdateInfo

RECEIVERS = {"broadcast": BroadcastReceiver, "ipc": MemoryReceiver}


class Worker:
    def __init__(self, transport: str, device: torch.device, seat: Seat, blocks: Mapping[str, Block]) -> None:
        self._transport, self._device, self._seat, self._blocks = transport, device, seat, blocks
        self._parameters: dict[str, Tensor] = {}

    def init_weight_transfer_engine(self, init_info: dict) -> None:
        self._receiver = RECEIVERS[self._transport](InitInfo(**init_info), self._seat, self._device)

    def collective_rpc(self, method: str, kwargs: dict, timeout: float) -> None:
        assert method == "stage_weights"
        self._receiver.stage(UpdateInfo(**kwargs["info"]))

    def update_weights(self, update_info: dict) -> None:
        self._receiver.receive(UpdateInfo(**update_info), self._load)
        if self._receiver.blocks is not None:
            self._receiver.blocks.trusted = True
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
        for name, whole in tensors:
            tensor = self._blocks[name].of(whole) if name in self._blocks else whole
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


def main(
    transport: str, device: str, host: str = "127.0.0.1", tensor_rank: str = "0", size: str = "1", model: str = ""
) -> None:
    """Serve one worker, which is `tensor_rank` of `size` of a server of `model`."""
    torch.set_num_threads(1)
    if device != "cpu":
        torch.cuda.set_device(torch.device(device))
    seat = Seat(0, int(tensor_rank), int(size))
    blocks = _blocks(model, seat) if model else {}
    Routes.worker = Worker(transport, torch.device(device), seat, blocks)
    server = ThreadingHTTPServer((host, 0), Routes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()  # ends with the process that started this one


def _blocks(model: str, seat: Seat) -> Mapping[str, Block]:
    from fastsvs.policy.blocks import served_blocks

    return served_blocks(read_architecture(load_hf_config(model)), seat.tensor_parallel, seat.tensor_rank)


if __name__ == "__main__":
    main(*sys.argv[1:])
