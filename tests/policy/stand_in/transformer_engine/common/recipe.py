from enum import Enum


class Format(Enum):
    E4M3 = "e4m3"
    HYBRID = "hybrid"


class DelayedScaling:
    """A recipe that nothing here uses."""


class Float8CurrentScaling:
    """Scaling of a tensor by its own largest value."""

    def __init__(self, fp8_format: Format, fp8_dpa: bool) -> None:
        assert not fp8_dpa, "attention keeps its precision"
        self.fp8_format = fp8_format
