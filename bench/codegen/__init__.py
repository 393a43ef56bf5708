"""What compilers make of the Triton kernels, without a GPU: registers, spills, wide loads, instructions an entry."""
