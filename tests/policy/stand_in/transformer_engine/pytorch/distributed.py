class CudaRNGStatesTracker:
    """States of random numbers, which nothing here draws."""
