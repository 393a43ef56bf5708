"""Collects the peers in a folder for PYTHONPATH, so that a machine without a network can measure them too.

python -m bench.kernels.peers --into DIR
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PEERS = (
    "liger-kernel==0.8.5",
    "verl==0.9.1",
    "cut-cross-entropy==25.1.1",
    "trl==1.16.0",
    "quack-kernels==0.6.5",
    "packaging==26.3",  # TRL's kernels want it
)
"""Pure Python; without what they depend on, of which only torch and Triton matter here."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels.peers", description=__doc__)
    parser.add_argument("--into", type=Path, required=True, help="folder to install them into")
    folder = parser.parse_args(arguments).into
    for peer in PEERS:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), peer]
        if subprocess.run(command, check=False).returncode:
            print(f"{peer}: left out, pip could not install it")
    print(f"set PYTHONPATH={folder.absolute()}")


if __name__ == "__main__":
    main()
