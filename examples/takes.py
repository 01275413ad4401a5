"""Three manners and a second seed on one picture, which is made once; the best take of each kind comes first.

python examples/takes.py [FOLDER]
"""

import sys
from pathlib import Path

import mlx_ltxw as ltx

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "takes")
folder.mkdir(exist_ok=True)

prompt = 'a woman in dim light, (woman): "close your eyes"'
takes = ["whispering", "soft", "normal", "whispering seed=+1"]

with ltx.load() as model:
    clips = model.generate(prompt, adapter="whisper", takes=takes, steps=4)
    for take, clip in zip(takes, clips, strict=True):
        found = clip.measure()
        path = clip.save(folder / f"{take.replace(' ', '-')}.wav")  # an mp4 would carry the picture they share
        print(f"{path}: {found.register}, {found.lufs:.1f} LUFS, {found.rate:.1f} syllables a second")
