"""What a run writes and shows: run folder, loggers, progress, curves."""

from fastsvs.telemetry.curves import draw_curves
from fastsvs.telemetry.loggers import LOGGERS, Logger, check_loggers
from fastsvs.telemetry.memory import give_back, peak_memory
from fastsvs.telemetry.progress import StepProgress, Tally, training_facts
from fastsvs.telemetry.run_folder import RunFolder
from fastsvs.telemetry.themes import Theme, draw_themes

__all__ = [
    "LOGGERS",
    "Logger",
    "RunFolder",
    "StepProgress",
    "Tally",
    "Theme",
    "check_loggers",
    "draw_curves",
    "draw_themes",
    "give_back",
    "peak_memory",
    "training_facts",
]
