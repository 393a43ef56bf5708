"""The settings of the token-level policy losses, and the ranges in which they make sense."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from typing import Any, Literal, get_args

Correction = Literal["none", "tis", "icepop"]
Estimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True, slots=True)
class PolicyLossSettings:
    """The settings of the losses that the kernels know."""

    loss: str = "ppo"
    """Name of the loss: `ppo` (also GRPO's, DAPO's, Dr.GRPO's and BNPO's), `cispo` or `sapo`."""
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = 3.0
    ratio_min: float = 0.0
    ratio_max: float = 5.0
    sapo_temperature_positive: float = 1.0
    sapo_temperature_negative: float = 1.05
    rollout_correction: Correction = "none"
    tis_cap: float = 2.0
    icepop_range: tuple[float, float] = (0.5, 5.0)
    kl_coefficient: float = 0.0
    kl_estimator: Estimator = "k3"
    entropy_coefficient: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for a number outside its range, or a correction or estimator of an unknown name. The name
        of the loss is checked where it is computed: the terms around it serve other losses too."""
        for name, known in (("rollout_correction", get_args(Correction)), ("kl_estimator", get_args(Estimator))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        dual_clip = inf if self.dual_clip is None else self.dual_clip
        ranges = {
            "clip_low must be at least 0": (self.clip_low, self.clip_low >= 0),
            "clip_high must be at least 0": (self.clip_high, self.clip_high >= 0),
            "dual_clip must be above 1, or None": (self.dual_clip, dual_clip > 1),
            "ratio_min must be at least 0 and below ratio_max": (self.ratio_min, 0 <= self.ratio_min < self.ratio_max),
            "sapo_temperature_positive must be above 0 and finite": _positive(self.sapo_temperature_positive),
            "sapo_temperature_negative must be above 0 and finite": _positive(self.sapo_temperature_negative),
            "tis_cap must be above 0": (self.tis_cap, self.tis_cap > 0),
            "icepop_range must be 0 <= low < high": (
                self.icepop_range,
                len(self.icepop_range) == 2 and 0 <= self.icepop_range[0] < self.icepop_range[1],
            ),
            "kl_coefficient must be at least 0 and finite": (self.kl_coefficient, 0 <= self.kl_coefficient < inf),
            "entropy_coefficient must be finite": (self.entropy_coefficient, abs(self.entropy_coefficient) < inf),
        }
        for rule, (value, holds) in ranges.items():
            if not holds:
                raise ValueError(f"{rule}, got {value}")

    def packed(self) -> tuple[str, list[float]]:
        """Return the names and the numbers of the settings, as an operator of torch can take them."""
        numbers = [getattr(self, name) for name in NUMBERS]
        no_dual_clip = 0.0 if self.dual_clip is None else self.dual_clip
        return " ".join(getattr(self, name) for name in NAMES), [no_dual_clip, *self.icepop_range, *numbers]

    @staticmethod
    def unpacked(names: str, numbers: list[float]) -> PolicyLossSettings:
        """Return the settings that `packed` gave."""
        dual_clip, low, high, *others = numbers
        given: dict[str, Any] = dict(zip((*NAMES, *NUMBERS), (*names.split(), *others), strict=True))
        return PolicyLossSettings(dual_clip=dual_clip or None, icepop_range=(low, high), **given)


NAMES = ("loss", "rollout_correction", "kl_estimator")
NUMBERS = tuple(
    field.name for field in fields(PolicyLossSettings) if field.name not in (*NAMES, "dual_clip", "icepop_range")
)


def _positive(value: float) -> tuple[float, bool]:
    return value, 0 < value < inf
