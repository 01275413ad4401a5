"""What reading a given picture takes of the process, against the system's own count."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mlx_ltxw.media.images import picture_size, reading_memory
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.takes.given import reading_of

READ = """
import sys
import av, numpy, PIL.Image
from mlx_ltxw.media.images import compressed, cover, read_image
def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) * 1024
before = status("VmRSS")
cover(compressed(read_image(sys.argv[1]), 33), 256, 256)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's count of a process")
def test_reading_takes_what_was_counted(tmp_path):
    """Beside 15 MB of libraries, which the plan counts with FFmpeg's; a picture on its side has as many pixels."""
    path = tmp_path / "a.jpg"
    small = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(small).resize((2000, 1500)).save(path, exif=exif)
    assert sorted(picture_size(path)) == [1500, 2000]
    said = reading_of(Request("a", images=(f"{path}@last",)))
    assert said == reading_memory(2000, 1500)
    held = int(subprocess.run([sys.executable, "-c", READ, path], capture_output=True, check=True).stdout)
    assert 0.9 * (held - 15_000_000) <= said <= 1.1 * held
