"""Speed, memory and error of the kernels beside their peers and the physical limits."""
