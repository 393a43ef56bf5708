"""The name under which torch knows the operators, e.g. torch.ops.fastsvs__kernels.linear_statistics."""

from __future__ import annotations

NAMESPACE = __name__.rpartition(".")[0].replace(".", "__")
"""Namespace of the operators: the package's own name, so that two copies of the package do not meet."""
