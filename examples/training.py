"""Trains a small adapter on whispers that the built-in model makes, a few steps only, and listens to it.

python examples/training.py [FOLDER]
"""

import sys
from pathlib import Path

import mlx_ltxw as ltx

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "training")
clips = folder / "clips"
clips.mkdir(parents=True, exist_ok=True)

# One clip with a caption beside it. Yours would be recordings, and dozens of them.
model = ltx.load()
prompt = 'a woman in dim light, (woman, whispering): "close your eyes"'
model.generate(prompt, adapter="whisper", steps=4).save(clips / "1.wav")
(clips / "1.txt").write_text(prompt)

done = ltx.train(
    clips,
    folder / "run",
    model=model,
    follow=print,  # each event says itself in a line
    frames=49,  # two seconds
    steps=3,  # 2000 is the default
    rank=4,
    preview_every=0,
    preview_prompts=[prompt],
    preview_steps=2,
)

print(done.adapter, done.delta_rms)
for sample in done.samples:
    print(f"step {sample.step}: {sample.register}, {sample.lufs:.1f} LUFS: {sample.prompt}")
print(ltx.inspect(done.adapter))
