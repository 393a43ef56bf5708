"""The tiny task: procedural word problems, the dialogues that teach them, and the tiny model's folder."""

from fastsvs.data.tiny.computation import LARGEST, OPERATIONS, Computation, Split, Step, apply, draw_computation
from fastsvs.data.tiny.model import build_tokenizer, write_model_folder
from fastsvs.data.tiny.sets import SCHEME, dialogues, problems
from fastsvs.data.tiny.skills import SYNTHESIS_TEMPLATE
from fastsvs.data.tiny.stories import PEOPLE, STORIES, Story
from fastsvs.data.tiny.wording import read_problem, solve, write_problem, write_solution

__all__ = [
    "LARGEST",
    "OPERATIONS",
    "PEOPLE",
    "SCHEME",
    "STORIES",
    "SYNTHESIS_TEMPLATE",
    "Computation",
    "Split",
    "Step",
    "Story",
    "apply",
    "build_tokenizer",
    "dialogues",
    "draw_computation",
    "problems",
    "read_problem",
    "solve",
    "write_model_folder",
    "write_problem",
    "write_solution",
]
