"""What compilers make of the Triton kernels, measured without a GPU: registers, spills, wide loads, instructions per
entry."""
