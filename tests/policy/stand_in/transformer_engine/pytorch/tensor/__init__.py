class QuantizedTensor:
    """A weight that is kept in 8 bits, which none here is."""
