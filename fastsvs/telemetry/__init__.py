"""What a run leaves and shows: run folder, progress, curves."""

from fastsvs.telemetry.curves import draw_curves
from fastsvs.telemetry.files import read_jsonl, write_json, write_jsonl
from fastsvs.telemetry.progress import StepProgress, training_facts
from fastsvs.telemetry.run_folder import RunFolder, describe_environment, read_evaluations

__all__ = [
    "RunFolder",
    "StepProgress",
    "describe_environment",
    "draw_curves",
    "read_evaluations",
    "read_jsonl",
    "training_facts",
    "write_json",
    "write_jsonl",
]
