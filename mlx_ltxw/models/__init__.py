"""The networks: arrays in, arrays out.

Importing this room turns `mx.compile` off where MLX has no GPU: its CPU backend compiles every fused kernel with the
system's C++ compiler at run time, which takes a second each, gains nothing here, and fails where there is no compiler.
"""

import mlx_ltxw.blas  # noqa: F401  # before MLX

# isort: split
import mlx.core as mx

if mx.default_device().type == mx.DeviceType.cpu:
    mx.disable_compile()
