"""Kernels of our own for CUDA, for what MLX does in several, or slower; each has a twin of MLX's own operations.

Most of what a block does besides products and attention is bound by memory: how often tokens are read and written is
what it costs, and at a few hundred tokens the start of a kernel (`docs/performance.md`).
"""
