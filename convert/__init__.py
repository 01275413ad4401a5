import mlx_ltxw.blas  # noqa: F401  # before MLX
