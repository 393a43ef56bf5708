"""Reachability of the Hugging Face hub. Its own client finds that out in most of a minute, for each file anew."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from fastsvs.output import say

SECONDS = 3.0
"""Longest wait for the hub's first answer, in seconds."""
_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?(:.+)?")
"""Id of a model or data set, with the name of a data set's configuration."""
_TRUE = ("1", "ON", "YES", "TRUE")


def settle(path: str) -> None:
    """Look once, before a model or data set of this process is asked of the hub, whether the hub answers. Where it does
    not, say so, and have Hugging Face's libraries of this process and its children take what their cache holds. Does
    nothing where `path` is on this machine, or is the path of a file and no id."""
    if not Path(path).exists() and _ID.fullmatch(path):
        _settle()


def offline(environment: dict[str, str]) -> bool:
    """Return True where the user has asked for the cache alone."""
    return environment.get("HF_HUB_OFFLINE", "").upper() in _TRUE


def address(environment: dict[str, str]) -> str:
    """Return the URL of the hub or of the mirror that the user has named."""
    return environment.get("HF_ENDPOINT") or "https://huggingface.co"


def silence(url: str) -> str | None:
    """Return the reason why nothing answers at `url` within SECONDS, or None where something does. The name is looked
    up in a thread, since a resolver without a network waits for longer than any timeout of a socket."""
    reasons: SimpleQueue[str | None] = SimpleQueue()

    def look() -> None:
        try:
            urlopen(url, timeout=SECONDS).close()
            reasons.put(None)
        except HTTPError:  # an answer
            reasons.put(None)
        except (URLError, OSError, ValueError) as error:
            reasons.put(str(getattr(error, "reason", error)))

    Thread(target=look, name="hub", daemon=True).start()
    try:
        return reasons.get(timeout=SECONDS)
    except Empty:
        return f"no answer in {SECONDS:g} s"


@cache
def _settle() -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or (reason := silence(url := address(dict(os.environ)))) is None:
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        from datasets import config

        config.HF_HUB_OFFLINE = config.HF_DATASETS_OFFLINE = True
    if os.environ.get("RANK", "0") == "0":
        say(f"fastsvs: {url} does not answer ({reason}): taking what the cache holds")
