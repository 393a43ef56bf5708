"""vLLM 0.32's HTTP routes for weights, and nothing else: the one place that knows them.

They exist with VLLM_SERVER_DEV_MODE=1 alone. vLLM asks for no key there, which is why `fastsvs.vllm_guard` does. Every
call has a time limit; proxies of the environment are not asked.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlencode

from fastsvs.sync.fleet import Endpoint

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RefusedError(Exception):
    """The server is alive and answered with an HTTP error."""


class UnreachableError(Exception):
    """The server did not answer: it is dead, hung, or cut off."""


class Routes:
    """Routes of one server. Methods raise RefusedError, and after at most `timeout` seconds UnreachableError."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def healthy(self, timeout: float) -> bool:
        try:
            self._call("GET", "/health", timeout)
        except (RefusedError, UnreachableError):
            return False
        return True

    def workers(self, timeout: float) -> int:
        """Return the number of processes that hold weights: tensor x pipeline x data parallel."""
        return int(self._call("GET", "/get_world_size?include_dp=true", timeout)["world_size"])

    def init_transfer(self, info: Mapping[str, Any], timeout: float) -> None:
        self._call("POST", "/init_weight_transfer_engine", timeout, {"init_info": info})

    def pause(self, mode: Literal["keep", "wait", "abort"], timeout: float) -> None:
        """Stop generating and drop the KV cache, prefix cache included."""
        self._call("POST", f"/pause?{urlencode({'mode': mode, 'clear_cache': 'true'})}", timeout)

    def resume(self, timeout: float) -> None:
        self._call("POST", "/resume", timeout)

    def start_update(self, timeout: float) -> None:
        """Begin an update, also where an earlier one was begun and never brought to an end."""
        try:
            self._call("POST", "/start_weight_update", timeout)
        except RefusedError as error:
            if "already active" not in str(error):
                raise
            self._call("POST", "/finish_weight_update", timeout)
            self._call("POST", "/start_weight_update", timeout)

    def update(self, info: Mapping[str, Any], timeout: float) -> None:
        """Have all workers receive and load the tensors that `info` describes; return when they have."""
        self._call("POST", "/update_weights", timeout, {"update_info": info})

    def finish_update(self, version: int, timeout: float) -> None:
        self._call("POST", "/finish_weight_update", timeout, {"weight_version": str(version)})

    def version(self, timeout: float) -> str:
        return self._call("GET", "/weight_info", timeout)["weight_version"]

    def sleep(self, level: Literal[1, 2], timeout: float) -> None:
        """Free GPU memory: level 1 keeps the weights in host memory, level 2 drops them."""
        self._call("POST", f"/sleep?{urlencode({'level': level, 'mode': 'wait'})}", timeout)

    def wake_up(self, tags: Sequence[Literal["weights", "kv_cache"]], timeout: float) -> None:
        self._call("POST", f"/wake_up?{urlencode([('tags', tag) for tag in tags])}", timeout)

    def _call(self, method: str, path: str, timeout: float, body: Mapping[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self.endpoint.url.rstrip("/") + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.endpoint.api_key}"},
        )
        try:
            with _OPENER.open(request, timeout=max(timeout, 0.001)) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            with error:
                answer = error.read().decode(errors="replace")
            raise RefusedError(f"{path.partition('?')[0]} answered {error.code}: {_message(answer)}") from error
        except (OSError, ValueError) as error:
            raise UnreachableError(f"{path.partition('?')[0]}: {error}") from error
        try:
            return json.loads(text) if text.strip() else None
        except ValueError as error:
            raise RefusedError(f"{path.partition('?')[0]} did not answer with JSON") from error


def _message(answer: str) -> str:
    """Return the message in vLLM's error objects, or else the answer's beginning."""
    try:
        found = json.loads(answer)
        return str(found["error"]["message"] if isinstance(found["error"], dict) else found["error"])
    except (ValueError, KeyError, TypeError):
        return answer[:500]
