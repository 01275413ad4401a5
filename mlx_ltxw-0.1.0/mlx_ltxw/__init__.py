"""LTX-2.3 audio-video generation in MLX, with adapters that whisper."""

from mlx_ltxw.blas import prefer_openblas
from mlx_ltxw.cuda_graphs import avoid_cuda_graphs
from mlx_ltxw.heap import keep_freed_memory

__version__ = "0.1.0"

avoid_cuda_graphs()
keep_freed_memory()

OPENBLAS = prefer_openblas()
"""Whether a system OpenBLAS was loaded ahead of MLX's own BLAS (see `mlx_ltxw.blas`)."""
