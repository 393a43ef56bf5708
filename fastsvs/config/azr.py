"""The section of Absolute Zero self-play; defaults are the constants of the paper and its code (arXiv 2505.03335)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fastsvs.config.section import Section

BANNED = (
    *("logging", "random", "multiprocessing", "pebble", "subprocess", "threading", "datetime", "time", "calendar"),
    *("hashlib", "hmac", "bcrypt", "os.sys", "os.path", "os.environ", "sys.exit", "input", "raise"),
)
"""The AZR code's list: most of it makes a program depend on more than its input."""



