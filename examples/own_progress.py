"""A progress bar of one's own, with a look at the latents; Ctrl-C leaves nothing behind.

python examples/own_progress.py
"""

from contextlib import closing

import numpy as np

import mlx_ltxw as ltx

model = ltx.load()
request = ltx.Request(
    'a woman in dim light, (woman, whispering): "close your eyes"',
    adapters=("whisper",),
    seeds=(1, 2),
    steps=5,
    audio_only=True,
)

with closing(model.stream(request)) as events:  # closing the events ends the run
    for event in events:
        if isinstance(event, ltx.Conditioned):
            print(f"prompt encoded in {event.seconds:.1f} s")
        elif isinstance(event, ltx.Adapted):
            print(*event.notes, sep="\n")
        elif isinstance(event, ltx.Step):
            spread = float(np.std(np.asarray(event.latents.audio)))
            bar = "#" * event.index + "." * (event.total - event.index)
            print(f"seed {event.seed} [{bar}] sigma {event.sigma:.3f}, spread of the sound's latents {spread:.2f}")
        elif isinstance(event, ltx.Decoded):
            print(f"seed {event.seed}: {len(event.waveform) / event.rate:.2f} s of sound")
