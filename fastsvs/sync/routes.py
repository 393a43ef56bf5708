"""vLLM's HTTP routes for weights (0.32 and 0.33), and nothing else: the one place that knows them.

They exist with VLLM_SERVER_DEV_MODE=1 alone. vLLM asks for no key there, which is why `fastsvs.vllm_guard` does. Every
call has a time limit; proxies of the environment are not asked.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException, IncompleteRead
from typing import Any, Literal
from urllib.parse import urlencode

from fastsvs.errors import EngineFailure
from fastsvs.open_files import EXHAUSTED, shortage
from fastsvs.sync.fleet import Endpoint

LARGEST = 1 << 24
"""Largest answer, in bytes."""
FILES_SECONDS = 60.0
"""Longest wait for files and whatever else this process runs short of, in seconds."""


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A redirection is an error: it would carry the key along."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirection)


class RefusedError(Exception):
    """The server is alive and answered with an HTTP error."""


class UnreachableError(Exception):
    """The server did not answer: it is dead, hung, or cut off."""


class Routes:
    """Routes of one server. Methods raise RefusedError, UnreachableError when the server is silent for `timeout`
    seconds, and EngineFailure where this process is at fault."""

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
        return int(self._field("/get_world_size?include_dp=true", timeout, "world_size"))

    def init_transfer(self, info: Mapping[str, Any], timeout: float) -> None:
        self._call("POST", "/init_weight_transfer_engine", timeout, {"init_info": info})

    def pause(self, mode: Literal["keep", "wait", "abort"], timeout: float) -> None:
        """Stop generating and drop the KV cache, prefix cache included."""
        self._call("POST", f"/pause?{urlencode({'mode': mode, 'clear_cache': 'true'})}", timeout)

    def resume(self, timeout: float) -> None:
        self._call("POST", "/resume", timeout)

    def stage(self, info: Mapping[str, Any], timeout: float) -> None:
        """Have all workers begin to receive the tensors that `info` describes, while requests go on."""
        body = {"method": "stage_weights", "kwargs": {"info": info}, "timeout": timeout}
        self._call("POST", "/collective_rpc", timeout, body)

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
        return self._field("/weight_info", timeout, "weight_version")

    def sleep(self, level: Literal[1, 2], timeout: float) -> None:
        """Free GPU memory: level 1 keeps the weights in host memory, level 2 drops them."""
        self._call("POST", f"/sleep?{urlencode({'level': level, 'mode': 'wait'})}", timeout)

    def wake_up(self, tags: Sequence[Literal["weights", "kv_cache"]], timeout: float) -> None:
        self._call("POST", f"/wake_up?{urlencode([('tags', tag) for tag in tags])}", timeout)

    def _field(self, path: str, timeout: float, name: str) -> Any:
        answer = self._call("GET", path, timeout)
        if not isinstance(answer, dict) or not isinstance(answer.get(name), int | str):
            raise RefusedError(f"{path.partition('?')[0]} names no {name}")
        return answer[name]

    def _call(self, method: str, path: str, timeout: float, body: Mapping[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self.endpoint.url.rstrip("/") + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.endpoint.api_key}"},
        )
        name = path.partition("?")[0]
        try:
            with self._open(request, max(timeout, 0.001)) as response:
                text = response.read(LARGEST + 1)
                if response.length and len(text) <= LARGEST:
                    raise IncompleteRead(text, response.length)
        except urllib.error.HTTPError as error:
            with error:
                answer = error.read(LARGEST).decode(errors="replace")
            raise RefusedError(f"{name} answered {error.code}: {_message(answer)}") from error
        except (OSError, ValueError, HTTPException) as error:
            raise UnreachableError(f"{name}: {error!r}") from error
        if len(text) > LARGEST:
            raise RefusedError(f"{name} answered with more than {LARGEST} bytes")
        try:
            return json.loads(text) if text.strip() else None
        except (ValueError, RecursionError) as error:
            raise RefusedError(f"{name} did not answer with JSON") from error

    def _open(self, request: urllib.request.Request, timeout: float) -> Any:
        """Send a request, once this process gets the files and whatever else it needs. Raises EngineFailure when that
        takes longer than FILES_SECONDS, or half of `timeout`."""
        deadline = time.monotonic() + min(FILES_SECONDS, timeout / 2)
        while True:
            try:
                return _OPENER.open(request, timeout=timeout)
            except urllib.error.URLError as error:
                number = getattr(error.reason, "errno", None)
                if number not in EXHAUSTED:
                    raise
                if time.monotonic() > deadline:
                    raise EngineFailure(shortage(f"reach {self.endpoint.url}", number)) from error
            time.sleep(min(FILES_SECONDS, timeout) / 100)


def _message(answer: str) -> str:
    """Return the message in vLLM's error objects, or else the answer's beginning."""
    try:
        found = json.loads(answer)
        return str(found["error"]["message"] if isinstance(found["error"], dict) else found["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return answer[:500]
