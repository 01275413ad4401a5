"""Measures every sound and video file of a folder: a table of register, loudness and voicing.

python examples/measure_folder.py [FOLDER]
"""

import sys
from pathlib import Path

import mlx_ltxw as ltx

ENDINGS = {".wav", ".mp3", ".flac", ".mp4", ".mov", ".mkv"}

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
for path in sorted(folder.iterdir()):
    if path.suffix.lower() not in ENDINGS:
        continue
    try:
        found = ltx.measure(path)
    except ltx.UserError as error:
        print(f"{path.name:24} {error}")
        continue
    register = found.register or "no speech"
    print(f"{path.name:24} {register:12} {found.lufs:6.1f} LUFS  {found.voiced:4.0%} voiced  {found.duration:5.2f} s")
