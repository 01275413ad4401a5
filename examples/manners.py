"""The same line in three manners, with one model in memory; the sound of each is kept.

python examples/manners.py [FOLDER]
"""

import sys
from pathlib import Path

import mlx_ltxw as ltx

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "manners")
folder.mkdir(exist_ok=True)

# How the adapter was taught to write each manner; without the adapter the voice is normal.
MANNERS = {
    "normal": ("(woman)", None),
    "soft": ("(woman, speaking softly)", "whisper"),
    "whispering": ("(woman, whispering)", "whisper"),
}

with ltx.load(resident=True) as model:  # the networks are loaded for the first clip and stay for the others
    for name, (words, adapter) in MANNERS.items():
        prompt = f'a woman in dim light, {words}: "close your eyes"'
        clip = model.generate(prompt, adapter=adapter, steps=4)  # the picture is decoded only if it is asked for
        found = clip.measure()
        path = clip.save(folder / f"{name}.wav")
        print(f"{path}: {found.register}, {found.lufs:.1f} LUFS, {found.voiced:.0%} voiced")
