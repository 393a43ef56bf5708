"""Client of vLLM servers for samples, in processes of its own: requests, JSON and the check of answers.

A trainer's launches and its client would share one interpreter. So the client's processes take what is asked, and hand
over packed arrays. They import neither torch nor the rest of the trainer, and neither does this room.
"""

from fastsvs.client.answer import Expected, excerpt, read_samples
from fastsvs.client.faults import AbortedError, ClientLostError, NonsenseError, UnreachableError
from fastsvs.client.files import with_files
from fastsvs.client.http import open_session, read_whole, send
from fastsvs.client.messages import Ask, ExpertShape, Sample, Setup
from fastsvs.client.pool import ClientPool

__all__ = [
    "AbortedError",
    "Ask",
    "ClientLostError",
    "ClientPool",
    "Expected",
    "ExpertShape",
    "NonsenseError",
    "Sample",
    "Setup",
    "UnreachableError",
    "excerpt",
    "open_session",
    "read_samples",
    "read_whole",
    "send",
    "with_files",
]
