"""A server in vLLM's place: its command line, its routes and its weight transfer, without a model.

Each of its workers is a thread with the receiving code of vLLM's workers; it takes part in the group over which weights
come, and compares checksums, but keeps no tensor. Every sample takes the time of its tokens in one of
`--max-num-seqs` slots.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

import torch
from aiohttp import web
from torch import Tensor

from bench.rehearsal.answers import Writer, answer
from fastsvs.sync.receive import BroadcastReceiver, InitInfo, Seat, UpdateInfo

SETTINGS = "FASTSVS_REHEARSAL"
"""Environment variable with what the server must know, as JSON."""


class Worker:
    """A process of a server that holds weights; here it is a thread."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._receiver: BroadcastReceiver | None = None
        self.received = 0
        """Bytes of all weights so far."""

    def join(self, info: dict[str, Any]) -> None:
        if self._receiver is not None:
            self._receiver.close()
        self._receiver = BroadcastReceiver(InitInfo(**info), self._seat, torch.device("cpu"))

    def stage(self, info: dict[str, Any]) -> None:
        self._joined.stage(UpdateInfo(**info))

    def update(self, info: dict[str, Any]) -> None:
        self._joined.receive(UpdateInfo(**info), self._load)

    @property
    def _joined(self) -> BroadcastReceiver:
        assert self._receiver is not None, "init_weight_transfer_engine comes first"
        return self._receiver

    def _load(self, tensors: list[tuple[str, Tensor]]) -> None:
        self.received += sum(tensor.nbytes for _, tensor in tensors)


class Server:
    def __init__(self, options: argparse.Namespace, settings: dict[str, Any], key: str) -> None:
        self._key = key
        self._writer = Writer.from_settings(settings)
        self._seconds_per_token: float = settings["seconds_per_token"]
        self._slots = asyncio.Semaphore(options.max_num_seqs)
        size = options.tensor_parallel_size
        self._workers = [Worker(Seat(number, number, size)) for number in range(size)]
        self._version = "default"
        self._updating = False

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26, middlewares=[self._guard, _as_vllm_says_it])
        for route in ("/health", "/is_paused"):
            app.router.add_get(route, _nothing)
        for route in ("/pause", "/resume"):
            app.router.add_post(route, _nothing)
        app.router.add_get("/get_world_size", self._world_size)
        app.router.add_get("/weight_info", self._weight_info)
        app.router.add_post("/inference/v1/generate", self._generate)
        app.router.add_post("/init_weight_transfer_engine", self._join)
        app.router.add_post("/collective_rpc", self._stage)
        app.router.add_post("/start_weight_update", self._start)
        app.router.add_post("/update_weights", self._update)
        app.router.add_post("/finish_weight_update", self._finish)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        if request.path != "/health" and request.headers.get("Authorization") != f"Bearer {self._key}":
            raise web.HTTPUnauthorized
        return await handler(request)

    async def _world_size(self, _: web.Request) -> web.Response:
        return web.json_response({"world_size": len(self._workers)})

    async def _weight_info(self, _: web.Request) -> web.Response:
        return web.json_response({"weight_version": self._version})

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        sampling = body["sampling_params"]
        if "seed" not in sampling:  # the warm-up
            return web.json_response({"choices": []})
        choices = self._writer.samples(body["token_ids"], sampling, self._version)
        await asyncio.gather(*(self._decode(len(choice["token_ids"])) for choice in choices))
        return web.Response(body=answer(choices), content_type="application/json")

    async def _decode(self, tokens: int) -> None:
        async with self._slots:
            await asyncio.sleep(tokens * self._seconds_per_token)

    async def _join(self, request: web.Request) -> web.Response:
        await self._on_all(Worker.join, (await request.json())["init_info"])
        return web.json_response({})

    async def _stage(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["method"] != "stage_weights":
            raise ValueError(f"no method {body['method']!r}")
        await self._on_all(Worker.stage, body["kwargs"]["info"])
        return web.json_response({})

    async def _start(self, _: web.Request) -> web.Response:
        if self._updating:
            raise RuntimeError("a weight update is already active")
        self._updating = True
        return web.json_response({})

    async def _update(self, request: web.Request) -> web.Response:
        await self._on_all(Worker.update, (await request.json())["update_info"])
        return web.json_response({})

    async def _finish(self, request: web.Request) -> web.Response:
        self._updating = False
        if request.can_read_body:
            self._version = (await request.json()).get("weight_version", self._version)
        print(f"weights {self._version}: {[worker.received for worker in self._workers]} bytes so far", flush=True)
        return web.json_response({})

    async def _on_all(self, method: Callable[[Worker, dict[str, Any]], None], info: dict[str, Any]) -> None:
        await asyncio.gather(*(asyncio.to_thread(method, worker, info) for worker in self._workers))


async def _nothing(_: web.Request) -> web.Response:
    return web.json_response({})


@web.middleware
async def _as_vllm_says_it(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    try:
        return await handler(request)
    except (web.HTTPException, asyncio.CancelledError):
        raise
    except Exception as error:
        said = {"error": {"message": f"{type(error).__name__}: {error}", "code": 500}}
        return web.json_response(said, status=500)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tensor-parallel-size", type=int, required=True)
    parser.add_argument("--max-num-seqs", type=int, required=True)
    options, _ = parser.parse_known_args()
    torch.set_num_threads(1)

    async def serve() -> None:
        server = Server(options, json.loads(os.environ[SETTINGS]), os.environ["VLLM_API_KEY"])
        runner = web.AppRunner(server.application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, options.host, options.port).start()
        await asyncio.Event().wait()

    asyncio.run(serve())
