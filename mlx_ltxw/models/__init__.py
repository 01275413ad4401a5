"""The networks: arrays in, arrays out. Importing them changes nothing in the process but for the BLAS."""

import mlx_ltxw.blas  # noqa: F401  # before MLX
