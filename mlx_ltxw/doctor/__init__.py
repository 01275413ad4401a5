"""What this machine is, what it can run, and what is wrong with it: `mlx-ltxw doctor`."""

import mlx_ltxw.blas  # noqa: F401  # before MLX
