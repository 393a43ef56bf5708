class Sequential:
    """Fused operations, which nothing here uses."""


class FusibleOperation:
    """One of them."""
