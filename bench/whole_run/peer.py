"""One RLVR step of FastSvS and of TRL 1.16 on one GPU: the same work, in turn, each side in processes of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from bench.report import Row
from bench.whole_run.cases import Case, Place
from bench.whole_run.gpu import MemoryWatch, memory_watch
from bench.whole_run.peer_work import (
    CLIP_HIGH,
    CLIP_LOW,
    LARGER,
    LEARNING_RATE,
    SMOLLM2,
    TEMPERATURE,
    TINY,
    TINY_RANDOM,
    Measured,
    Shape,
    fastest,
    model_folder,
)
from bench.whole_run.runs import TrainingRun
from fastsvs.errors import UserError

OURS, THEIRS = "FastSvS", "TRL"
GOAL = 2.0
OPTIONS_VARIABLE = "PEER_VLLM"
"""Environment variable with vLLM options of both sides as JSON, in place of those of the suite."""
GRAPHS = '{"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}'
"""CUDA graphs without torch.compile, which vLLM 0.32 needs a newer torch for than the GPU machine has."""
OPTIONS: dict[str, dict[str, Any]] = {"h200": {"compilation-config": GRAPHS}, "smoke": {"enforce-eager": True}}
NOT_THERE = "no flash-attn and no hub kernels on this machine: attention is PyTorch's SDPA"


@dataclass(frozen=True)
class Ours:
    """The settings that our side offers its user and that speed depends on."""

    recompute: str
    micro_batch: int
    """Number of tokens of one packed forward and backward pass."""

    def __str__(self) -> str:
        return f"recompute {self.recompute}, {self.micro_batch} tokens a pass"


def theirs(name: str, batch: int, **choices: Any) -> dict[str, Any]:
    """Return the fields of `peer_trl.Setting`, which can only be imported where TRL is."""
    return {"name": name, "batch": batch, **choices}


def cases(place: Place) -> list[Case]:
    """Return the cases, the most telling first: both sides at both sizes, then other settings of either."""
    if place.suite == "smoke":
        plain = {"weights": "float32", "liger": False, "vllm": False}  # a CPU's vLLM takes no weights from TRL
        plan = [
            (TINY, Ours("none", 4096)),
            (TINY, theirs("b8", 8, **plain)),
            (TINY_RANDOM, Ours("none", 4096)),
            (TINY_RANDOM, theirs("b8", 8, **plain)),
        ]
    else:
        plan = [
            (SMOLLM2, Ours("none", 16384)),
            (SMOLLM2, theirs("b64", 64)),
            (LARGER, Ours("full", 16384)),
            (LARGER, theirs("b8", 8)),
            (LARGER, theirs("b16-sleep", 16, sleep=True)),
            (SMOLLM2, theirs("b128", 128)),
            (LARGER, Ours("none", 8192)),
            (LARGER, theirs("b32-checkpointing", 32, checkpointing=True)),
            (SMOLLM2, theirs("b32", 32)),
            (SMOLLM2, theirs("b64-fp32", 64, weights="float32")),
        ]
    return [
        Case(f"peer/{_short(shape)}/{_label(setting)}", partial(measure, place, shape, setting))
        for shape, setting in plan
    ]


def measure(place: Place, shape: Shape, setting: Ours | dict[str, Any], folder: Path) -> Iterator[Row]:
    """Run one side and yield its rows, and the ratio of the sides' fastest runs whenever that changes."""
    folder.mkdir(parents=True, exist_ok=True)
    model = "models/tiny" if place.suite == "smoke" else place.model
    model = model_folder(shape, model, place.work / f"peer-model-{_short(shape)}")
    asked = os.environ.get(OPTIONS_VARIABLE)
    options = OPTIONS[place.suite] if asked is None else json.loads(asked)
    side = OURS if isinstance(setting, Ours) else THEIRS
    with memory_watch() as memory:
        if isinstance(setting, Ours):
            measured = run_ours(shape, setting, model, options, folder / "run")
        else:
            measured = run_theirs(shape, setting, model, options, folder)
    kept = place.work / f"peer-{_short(shape)}" / side
    before = ratio(kept.parent)
    measured.write(kept / f"{_label(setting)}.json")
    yield from rows(shape, side, measured, memory, options)
    now = ratio(kept.parent)
    if now and now != before:
        value, note = now
        yield Row(shape.case, f"{OURS} / {THEIRS}", "ratio of tokens per second", value, "ratio", GOAL, note)


def run_ours(shape: Shape, setting: Ours, model: str, options: Mapping[str, Any], folder: Path) -> Measured:
    """Run `fastsvs train` and stop it when it has done its steps. Raises UserError when it completes no measured
    step."""
    shutil.rmtree(folder, ignore_errors=True)  # a run that is there would go on
    config = folder.with_suffix(".yaml")
    config.write_text(json.dumps(configuration(shape, setting, model, options, folder), indent=1))
    run, measured = TrainingRun(folder, str(config), []), Measured(f"{OURS}, {setting}")
    until, written = monotonic() + shape.seconds, 0.0
    try:
        run.start()
        for done in range(1, shape.warmup + shape.steps + 1):
            run.wait_for(lambda done=done: len(run.rows()) >= done, until - monotonic())
            last, written = written, run.stored.layout.metrics.stat().st_mtime
            _add(measured, run.rows()[done - 1], written - last)
    except UserError:
        if len(measured.seconds) <= shape.warmup:
            raise
    finally:
        run.kill()
        run.clear()
    return measured.after(shape.warmup)


def _add(measured: Measured, row: Mapping[str, float], seconds: float) -> None:
    parts = {
        "rollout": row["time/rollout"],
        "weights to the engine": row["time/sync"],
        "update and the rest": seconds - row["time/rollout"] - row["time/sync"],
    }
    for name, value in parts.items():
        measured.parts.setdefault(name, []).append(value)
    measured.seconds.append(seconds)
    measured.tokens.append(round(row["response_tokens/original"] * row["samples/original"]))
    measured.moments.append(monotonic())
    if row["kept_samples/original"] != row["samples/original"]:
        raise UserError(f"only {row['kept_samples/original']:.0f} of {row['samples/original']:.0f} were trained on")


def configuration(shape: Shape, setting: Ours, model: str, options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the configuration of a `fastsvs train` that does the work and nothing else."""
    engine: dict[str, Any] = {"engine": "local"}
    if importlib.util.find_spec("vllm"):
        arguments = {"gpu-memory-utilization": shape.memory_share, **options}
        engine = {"engine": "vllm", "placement": "colocated", "server": {"arguments": arguments}}
    endless = 1000  # no checkpoint comes before the run is stopped
    return {
        "model": {"path": model, "initialize": "random" if shape.random else "pretrained"},
        "data": {
            "path": "tiny:train",
            "limit": shape.prompts,
            "suffix": "",
            "max_prompt_tokens": shape.max_prompt_tokens,
        },
        "rollout": engine
        | {
            "samples_per_prompt": shape.samples,
            "temperature": TEMPERATURE,
            "max_response_tokens": shape.max_tokens,
            "max_sequences": shape.responses,
        },
        "selfplay": {"stage": "none"},
        "algorithm": {
            "reward": "bench.whole_run.peer_work:alternating",
            "clip_low": CLIP_LOW,
            "clip_high": CLIP_HIGH,
            "dual_clip": None,
            "samples_per_update": shape.responses,
        },
        "policy": {
            "dtype": shape.dtype,
            "recompute": setting.recompute,
            "tokens_per_micro_batch": setting.micro_batch,
            "optimizer": {"learning_rate": LEARNING_RATE, "weight_decay": 0.0},
        },
        "dynamics": {"every": 0},
        "run": {"dir": str(folder), "steps": endless, "prompts_per_step": shape.prompts, "save_every": endless},
    }


def run_theirs(
    shape: Shape, setting: Mapping[str, Any], model: str, options: Mapping[str, Any], folder: Path
) -> Measured:
    """Run TRL in a process of its own. Raises UserError when it is not installed or completes no measured step."""
    if importlib.util.find_spec("trl") is None:
        raise UserError("TRL is not installed here: pip install trl==1.16.0")
    spec, out, log = (folder / name for name in ("spec.json", "out.json", "log.txt"))
    spec.write_text(json.dumps({"model": model, "shape": asdict(shape), "setting": setting, "options": options}))
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.whole_run.peer_trl", str(spec), str(out)]
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as target:
        process = subprocess.Popen(
            command, env=os.environ | offline, stdout=target, stderr=target, start_new_session=True
        )
        try:
            process.wait(shape.seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(process)
    measured = Measured.read(out) if out.exists() else None
    if measured is None or len(measured.seconds) <= shape.warmup:
        raise UserError(f"TRL came to no measured step (exit status {process.returncode}): {_tail(log)}")
    return measured.after(shape.warmup)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and those that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-1500:]


def rows(shape: Shape, side: str, measured: Measured, memory: MemoryWatch, options: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the figures of one run."""
    setting = f"{measured.setting}; vLLM {json.dumps(options)}"
    row = partial(Row, shape.case, side, note=f"{setting}; {NOT_THERE}" if side == THEIRS else setting)
    yield row("steps measured", len(measured.seconds), "count")
    yield row("seconds per step", median(measured.seconds), "s")
    yield row("response tokens per second", measured.rate, "tokens/s")
    yield row("response tokens per step", median(measured.tokens), "tokens")
    for name, values in measured.parts.items():
        yield row(f"seconds of {name}", median(values), "s")
    if used := memory.between(measured.moments[0], measured.moments[-1]):
        yield row("GPU memory in use, most", max(used), "GiB")


def ratio(kept: Path) -> tuple[float, str] | None:
    """Return the tokens per second of our fastest run over those of TRL's, and which runs these are.

    It is None before both sides ran.
    """
    sides = [[Measured.read(path) for path in sorted((kept / side).glob("*.json"))] for side in (OURS, THEIRS)]
    if not all(sides):
        return None
    ours, peer = map(fastest, sides)
    return (
        ours.rate / peer.rate,
        f"fastest of {len(sides[0])} and {len(sides[1])} settings: {ours.setting}; {peer.setting}",
    )


def _short(shape: Shape) -> str:
    return shape.name.split(",")[0].lower().replace(" ", "-")


def _label(setting: Ours | dict[str, Any]) -> str:
    if isinstance(setting, Ours):
        return f"fastsvs-{setting.recompute}"
    return f"trl-{setting['name']}"
