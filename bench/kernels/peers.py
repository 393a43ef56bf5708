"""Collect the peers in a folder for PYTHONPATH, so that a machine without a network can measure them too.

python -m bench.kernels.peers --into DIR [--cutlass] [--python 3.12]
"""

from __future__ import annotations

import argparse
import os
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
"""Packages in pure Python, without their dependencies, of which only torch and Triton matter here."""
CUTLASS = (
    "nvidia-cutlass-dsl==4.8.1",
    "nvidia-cutlass-dsl-libs-base==4.8.1",
    "nvidia-cutlass-dsl-libs-core==4.8.1",
    "nvidia-cutlass-dsl-libs-cu13==4.8.1",
    "cuda-bindings==13.5.0",
    "cuda-pathfinder==1.9.1",
    "protobuf==7.36.2",
    "typing-extensions==4.16.0",
    "apache-tvm-ffi==0.1.15.post2",
    "torch-c-dlpack-ext==0.1.5",
    "einops==0.8.2",
)
"""Packages with CUDA binaries for one version of Python, which QuACK and Liger's kernels for sm_90 need."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels.peers", description=__doc__)
    parser.add_argument("--into", type=Path, required=True, help="folder to install them into")
    parser.add_argument("--cutlass", action="store_true", help="what QuACK and Liger need on sm_90 too, 300 MB")
    parser.add_argument("--python", metavar="X.Y", help="version on the machine that will measure, if not this one")
    chosen = parser.parse_args(arguments)
    folder = chosen.into.absolute() / "site-packages"  # by this name QuACK knows CUTLASS's code from a user's
    # In one call what shares folders: pip would not add to those of a call before.
    for packages in (*((peer,) for peer in PEERS), *((CUTLASS,) if chosen.cutlass else ())):
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *packages]
        if chosen.python:
            command += ["--only-binary=:all:", "--python-version", chosen.python]
            command += [f"--platform={platform}" for platform in PLATFORMS]
        if subprocess.run(command, check=False).returncode:
            print(f"{', '.join(packages)}: left out, pip could not install that")
    # A folder on PYTHONPATH has no .pth files of its own, and CUTLASS counts on one.
    folders = [folder, *([folder / "nvidia_cutlass_dsl/dsl_packages"] if chosen.cutlass else [])]
    print(f"set PYTHONPATH={os.pathsep.join(map(str, folders))}")


if __name__ == "__main__":
    main()
