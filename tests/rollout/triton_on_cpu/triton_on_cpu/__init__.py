"""A backend by whose name Triton's interpreter stands for a Triton that compiles for CPUs, of which there is no wheel.

vLLM runs Triton on a CPU where Triton says that it has a backend for it. With TRITON_INTERPRET=1 no kernel is compiled,
so that the backend is never asked for anything.
"""
