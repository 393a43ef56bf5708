"""The version of the kernels as a distribution of their own."""

__version__ = "0.1.0"
