"""The command at the least memory that its plan takes: it makes the clip within it, and refuses a little less."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_ltxw.pipeline.budget import MARGIN
from mlx_ltxw.printing import read_bytes
from mlx_ltxw.weights.builtin import BUILTIN_MODEL


def generate(folder, *arguments):
    """Its exit code, what it says, and the most that the process had in memory."""
    command = [sys.executable, "-m", "mlx_ltxw", "generate", *map(str, arguments)]
    told, most = folder / "told.txt", 0
    with told.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"MLX_LTXW_CACHE": "0"})
        while process.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            most = max(most, int(found[1]) * 1024) if found else most
            time.sleep(0.02)
    return process.returncode, told.read_text(), most


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's count of a process")
@pytest.mark.parametrize("two", [False, True], ids=["one stage", "two stages"])
@pytest.mark.parametrize("picture", [False, True], ids=["text", "large picture"])
def test_the_least_memory_is_enough(two, picture, two_distilled, tmp_path):
    arguments = ["a woman", "--seed", 1, "--width", 256, "--height", 256, "--frames", 33, "-o", tmp_path / "x.mp4"]
    arguments += ["-m", two_distilled.path] if two else ["-m", BUILTIN_MODEL, "--steps", 1]
    if picture:
        small = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
        Image.fromarray(small).resize((4000, 3000)).save(tmp_path / "a.jpg")
        arguments += ["--image", tmp_path / "a.jpg"]
    code, told, _ = generate(tmp_path, *arguments, "--memory", "200MB")
    assert code
    least = read_bytes(re.search(r"part of it needs ([\d.]+ .?B)", told)[1].replace(" ", "")) / MARGIN
    code, told, _ = generate(tmp_path, *arguments, "--memory", f"{least / 1e6 - 12:.0f}MB")
    assert code
    assert "a part of it needs" in told
    limit = least + 3_000_000  # what the program itself has differs a little from one start to the next
    code, told, most = generate(tmp_path, *arguments, "--memory", f"{limit / 1e6:.0f}MB")
    assert code == 0, told
    assert most < limit
