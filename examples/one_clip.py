"""One whispered clip: its picture as an array, its sound measured, and an mp4.

python examples/one_clip.py [OUT.mp4]
"""

import sys

import mlx_ltxw as ltx

out = sys.argv[1] if len(sys.argv) > 1 else "one_clip.mp4"

model = ltx.load()  # the small model that ships with the package; ltx.load("ltx23") for a converted one
clip = model.generate(
    'a woman in dim light, (woman, whispering): "close your eyes"',
    adapter="whisper",
    seed=3,
    steps=6,  # quick; leave it out for the model's own
)

print(clip.frames.shape, clip.frames.dtype)  # (frames, height, width, 3) uint8, decoded when first asked for
print(clip.waveform.shape, clip.sample_rate)  # (samples, 2) float32
print(clip.measure().register)
print(clip.save(out))  # the request that made it is inside: `mlx-ltxw inspect one_clip.mp4`
