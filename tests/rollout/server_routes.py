"""The routes of a real vLLM server, as one who has its key asks them."""

from __future__ import annotations

import json
import urllib.request

from fastsvs.sync import Endpoint


def ask(endpoint: Endpoint, method: str, path: str, body: dict[str, str] | None = None) -> str:
    """Return what the server answers to one who has the key."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.api_key}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(endpoint.url + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read().decode()
