"""What a run leaves and shows: run folder, progress, curves."""

from fastsvs.telemetry.curves import draw_curves
from fastsvs.telemetry.progress import StepProgress, training_facts
from fastsvs.telemetry.run_folder import RunFolder, read_evaluations

__all__ = [
    "RunFolder",
    "StepProgress",
    "draw_curves",
    "read_evaluations",
    "training_facts",
]
