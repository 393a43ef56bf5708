"""SvS (arXiv 2508.14029): the policy rewrites problems that it half-solves, and solves what it wrote too."""

from fastsvs.selfplay.svs.extraction import Rejection, Variant, read_variants
from fastsvs.selfplay.svs.shaping import context_samples
from fastsvs.selfplay.svs.stage import PLACEHOLDER, SvsStage, load_template

__all__ = ["PLACEHOLDER", "Rejection", "SvsStage", "Variant", "context_samples", "load_template", "read_variants"]
