"""A machine of two, each with a model of its own: `python -m tests.machines.differing MODEL OTHER OUT`."""

import os
import sys

from mlx_ltxw.cli import main

models, out = sys.argv[1:3], sys.argv[3]
model = models[int(os.environ["MLX_RANK"])]
size = ("--width", "64", "--height", "64", "--frames", "9")
sys.argv = ["mlx-ltxw", "generate", "a woman whispers", "-m", model, "-o", out, "--steps", "2", *size]
main()
