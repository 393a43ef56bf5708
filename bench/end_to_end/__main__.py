"""`python -m bench.end_to_end --out DIR`: run blocks of FastSvS and of TRL in turn; write medians and ratio as JSON.

One step has 32 prompts x 8 responses of up to 64 tokens, a random Qwen2 of 0.45 M parameters, fp32, and one update.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from statistics import median

import torch

from bench.end_to_end.ours import Ours
from bench.end_to_end.work import Measured, make_model
from bench.report import Row, publish
from bench.usage import parser_of

CASE = "RLVR step, 0.45 M parameters, 256 responses"


def main() -> None:
    parser = parser_of("end_to_end", __doc__)
    parser.add_argument("--rounds", type=int, default=4, help="blocks of each side")
    parser.add_argument("--steps", type=int, default=6, help="measured steps in a block")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = {"FastSvS": Measured()}
    if importlib.util.find_spec("trl"):
        measured["TRL"] = Measured()
    else:
        print("TRL is absent: `pip install trl==1.16.0` into the environment to compare")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder, "models/tiny")
        ours = Ours(folder)
        for _ in range(options.rounds):
            ours.run(2, options.steps, measured["FastSvS"])
            if "TRL" in measured:
                from bench.end_to_end import peer_trl

                peer_trl.run(folder, 2, options.steps, measured["TRL"])
    publish("end_to_end", figures(measured, options.threads), options.out)


def figures(measured: dict[str, Measured], threads: int) -> list[Row]:
    rows = []
    for name, side in measured.items():
        rows.append(Row(CASE, name, "threads", threads, "count"))
        rows.append(Row(CASE, name, "steps measured", len(side.seconds), "count"))
        rows.append(Row(CASE, name, "seconds per step", median(side.seconds), "s"))
        rows.append(Row(CASE, name, "response tokens per second", median(side.rates), "tokens/s"))
        rows += [Row(CASE, name, f"share of {part}", _share(side, part), "share") for part in side.parts]
    if "TRL" in measured:
        ratio = median(measured["FastSvS"].rates) / median(measured["TRL"].rates)
        rows.append(Row(CASE, "FastSvS / TRL", "ratio of tokens per second", ratio, "ratio", limit=1.5))
    return rows


def _share(side: Measured, part: str) -> float:
    return sum(side.parts[part]) / sum(side.seconds)


if __name__ == "__main__":
    main()
