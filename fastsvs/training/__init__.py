"""One training run: preflight, session, and the loop whose step plays, assigns credit, looks and learns."""

from fastsvs.training.checks import check_policy, check_resumption, longest_sequence
from fastsvs.training.diagnostics import policy_figures
from fastsvs.training.loop import train
from fastsvs.training.preflight import preflight
from fastsvs.training.saving import SaveSchedule, check_room
from fastsvs.training.session import build_saver, training_spec

__all__ = [
    "SaveSchedule",
    "build_saver",
    "check_policy",
    "check_resumption",
    "check_room",
    "longest_sequence",
    "policy_figures",
    "preflight",
    "train",
    "training_spec",
]
