"""A small HTTP server that speaks vLLM's token route as told: well, badly, slowly, or not at all."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

KEY = "k"
VOCABULARY = 50
EOS = 3


def tokens_of(prompt: list[int], seed: int, limit: int) -> list[int]:
    """What a good server samples: a function of prompt and seed alone."""
    dice = random.Random(f"{prompt} {seed}")
    ids = [dice.randrange(4, VOCABULARY) for _ in range(limit)]
    if dice.random() < 0.5:
        ids = [*ids[: dice.randrange(limit)], EOS]
    return ids


def good_answer(body: dict[str, Any], version: int) -> dict[str, Any]:
    sampling = body["sampling_params"]
    choices = []
    for index in range(sampling["n"]):
        ids = tokens_of(body["token_ids"], sampling["seed"] + index, sampling["max_tokens"])
        choices.append(
            {
                "index": index,
                "finish_reason": "stop" if ids[-1] == EOS else "length",
                "token_ids": ids,
                "logprobs": {"content": [{"token_id": token, "logprob": -1.5} for token in ids]},
                "weight_versions": [{"version": str(version), "start": 0, "end": len(ids)}],
            }
        )
    return {"choices": choices}


class SpeakingServer:
    """A `Server` of the fleet's own event loop. `manners` may be set at any time."""

    def __init__(self, name: str, manners: str = "good", ours: bool = True, starts: int = 1000) -> None:
        """`starts`: how many times it can be started; afterwards its process ends at once."""
        self.name = name
        self.ours = ours
        self.trace = "the test"
        self.manners = manners
        self.version = 1
        self.settings = {
            "model_config": {"logprobs_mode": "processed_logprobs", "max_model_len": 64},
            "scheduler_config": {"max_num_seqs": 16},
            "aux_output_config": {"enable_return_routed_experts": False},
        }
        self.guarded = True
        """True for a server that asks for the key everywhere, as those that we start do and vLLM's own do not."""
        self.starts = starts
        self.started = 0
        self.stopped = 0
        self.served = 0
        self.asleep = False
        self.calls: Counter[str] = Counter()
        """Of each route."""
        self.heard: list[tuple[list[int], int]] = []
        """Prompt and number of samples of each request that got an answer."""
        self.peers: set[tuple[str, int]] = set()
        """Other ends of the connections on which samples were asked for."""
        self.given_up = 0
        """Requests whose connection the client closed."""
        self.on_request: Callable[[], None] = lambda: None
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        self.started += 1
        if self._runner is None:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._answer)
            self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await self._site.start()
        host, port = self._runner.addresses[-1][:2]
        return f"http://{host}:{port}"

    def exited(self) -> str | None:
        if self.manners == "dead":
            return "its process ended with status -9"
        return "it will not start" if self.started > self.starts else None

    async def stop(self) -> None:
        self.stopped += 1
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.calls[path] += 1
        if self.manners == "hung":
            await asyncio.sleep(3600)
        if self.guarded and path != "/health" and request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": "no key"}, status=401)
        if path == "/sleep":
            self.asleep = True
        if path == "/wake_up":
            self.asleep = False
        if path == "/server_info":
            if isinstance(self.settings, str):
                return web.Response(text=self.settings)
            return web.json_response({"vllm_config": self.settings})
        if path != "/inference/v1/generate":
            return web.json_response({})
        body = await request.json()
        if "seed" not in body["sampling_params"]:  # the warm-up
            return web.json_response({"choices": []})
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        self.on_request()
        try:
            return await self._generate(request, body)
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    async def _generate(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        match self.manners:
            case "babble":
                return web.json_response({"choices": [{"index": 0, "token_ids": "what?"}]})
            case "html":
                return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
            case "redirect":
                return web.Response(status=307, headers={"Location": "http://127.0.0.1:9/"})
            case "flood":
                return await self._flood(request)
            case "half":
                return await self._half(request)
            case "error":
                return web.Response(status=500, text="the engine is dead")
            case "wrong request":
                return web.json_response({"error": {"message": "too long for me"}}, status=400)
            case "diverged":
                answer = good_answer(body, self.version)
                answer["choices"][0]["logprobs"]["content"][0]["logprob"] = -9999.0
                return web.json_response(answer)
            case "drop" | "dead" | "refuse":
                if self.manners == "refuse":
                    await self._site.stop()
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            case "slow" | "hung":
                await asyncio.sleep(3600)
        await asyncio.sleep(0.005)
        self.served += 1
        self.heard.append((body["token_ids"], body["sampling_params"]["n"]))
        return web.json_response(good_answer(body, self.version))

    async def _flood(self, request: web.Request) -> web.StreamResponse:
        """Answer without end."""
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    async def _half(self, request: web.Request) -> web.StreamResponse:
        """Close the sending half in the middle of an answer."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"choices": [')
        assert request.transport is not None
        request.transport.write_eof()
        await asyncio.sleep(3600)
        return response
