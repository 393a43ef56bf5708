class FP8GlobalStateManager:
    """State of 8-bit training, which nothing here uses."""


def fp8_autocast() -> None:
    """Stand for the context of 8-bit training."""
