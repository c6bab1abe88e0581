"""CUDA kernels and their CPU twins."""
