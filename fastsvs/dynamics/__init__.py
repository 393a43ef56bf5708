"""How a policy changes while it learns: entropy, rank of its hidden states, its samples, its weights.

Definitions after Chae et al. 2025 (arXiv 2510.27072), the SvS paper (arXiv 2508.14029) and VERL; see docs/dynamics.md.
"""

from fastsvs.dynamics.entropy import entropy_figures
from fastsvs.dynamics.metrics import METRICS, BatchView, MetricFn, StepView, entropy_metric, rank_metric
from fastsvs.dynamics.rank import RANK_NAMES, rank_dynamics, rank_figures
from fastsvs.dynamics.samples import sample_figures
from fastsvs.dynamics.saturation import FEWEST, Saturation, fit_saturation
from fastsvs.dynamics.updates import UNCHANGED, Change, WeightUpdate, compare, paired

__all__ = [
    "FEWEST",
    "METRICS",
    "RANK_NAMES",
    "UNCHANGED",
    "BatchView",
    "Change",
    "MetricFn",
    "Saturation",
    "StepView",
    "WeightUpdate",
    "compare",
    "entropy_figures",
    "entropy_metric",
    "fit_saturation",
    "paired",
    "rank_dynamics",
    "rank_figures",
    "rank_metric",
    "sample_figures",
]
