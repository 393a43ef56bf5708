"""The kernels under test: installed, or from a checkout in which nothing is installed (run from its root)."""

try:
    from fastsvs import kernels
except ImportError:
    import kernels

__all__ = ["kernels"]
