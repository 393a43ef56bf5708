"""One training run: preflight, session, and the loop whose step plays, assigns credit, looks and learns."""

from fastsvs.training.checks import check_policy, check_resumption, first_inputs, longest_sequence
from fastsvs.training.diagnostics import policy_figures
from fastsvs.training.loop import steps, train
from fastsvs.training.preflight import preflight
from fastsvs.training.saving import SaveSchedule, check_room, frozen_base
from fastsvs.training.session import Session, build_saver, open_session, training_spec
from fastsvs.training.start import load_start
from fastsvs.training.summary import conclude

__all__ = [
    "SaveSchedule",
    "Session",
    "build_saver",
    "check_policy",
    "check_resumption",
    "check_room",
    "conclude",
    "first_inputs",
    "frozen_base",
    "load_start",
    "longest_sequence",
    "open_session",
    "policy_figures",
    "preflight",
    "steps",
    "train",
    "training_spec",
]
