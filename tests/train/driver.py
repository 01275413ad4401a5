"""Runs the training loop on made clips, in a process of its own: `python -m tests.train.driver MODEL RUN key=value...`.

The clips' files are empty, their names tell what is drawn; everything else is what `mlx-ltxw train --resume` does.
"""

import sys
from pathlib import Path

import numpy as np

import mlx_ltxw  # noqa: F401  (loads OpenBLAS before MLX)

WIDTH, HEIGHT, FRAMES, RATE = 64, 64, 17, 24.0
VIDEO_TOKENS, AUDIO_TOKENS = 3 * 2 * 2, 18
CAPTIONS = [
    'a dim room, (woman, whispering): "close your eyes"',
    'a garden, (man, speaking softly): "the rain has stopped"',
    'a kitchen, (woman, whispering): "breathe slowly now"',
]
QUICK = ["preview_prompts=a tone", "preview_steps=1", "preview_every=0", "rank=2", "alpha=2", "learning_rate=1e-3"]


def clip_files(folder, count=5, sound_alone=()):
    """Names of clips; those in `sound_alone` have no picture."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number}{'-sound' if number in sound_alone else ''}.clip" for number in range(count)]
    for file in files:
        file.touch()
    return files


def clip_loader(model):
    """In the place of `cache.load_clip`: makes the clip that a file's name stands for."""
    import mlx.core as mx

    from mlx_ltxw.train.data.cache import CachedClip

    config = model.network_config("transformer")

    def load(path):
        number = int(path.stem.split("-")[0])
        random = np.random.default_rng(number)
        shapes = [(VIDEO_TOKENS, config.video.in_channels), (AUDIO_TOKENS, config.audio.in_channels)]
        shapes += [(6, config.video.context_dim), (6, config.audio.context_dim)]
        video, audio, *contexts = [mx.array(random.standard_normal(shape).astype(np.float32)) for shape in shapes]
        picture = None if path.stem.endswith("sound") else video
        caption = CAPTIONS[number % 3]
        return CachedClip(f"key{number}", path.name, caption, WIDTH, HEIGHT, FRAMES, RATE, picture, audio, *contexts)

    return load


def job(model_path, run, settings, sound_alone=(), world=None, count=5):
    """What `loop.train` takes; loads clips from their names from now on."""
    from mlx_ltxw.train import loop
    from mlx_ltxw.train.config import read_config
    from mlx_ltxw.train.gradient import batches
    from mlx_ltxw.weights.model_dir import ModelDir
    from mlx_ltxw.world import World

    model = ModelDir.open(model_path)
    batches.load_clip = loop.load_clip = clip_loader(model)
    run.mkdir(exist_ok=True)
    sizes = [f"width={WIDTH}", f"height={HEIGHT}", f"frames={FRAMES}", f"frame_rate={RATE}"]
    config = read_config(None, [*QUICK, *sizes, *settings])
    return loop.Job(config, model, clip_files(run / "clips", count, sound_alone), run, world or World())


def main(model_path, run, settings):
    from mlx_ltxw.cli.train import _asked_to_stop, _follow
    from mlx_ltxw.errors import UserError
    from mlx_ltxw.train.loop import train
    from mlx_ltxw.world import World

    world = World.join()
    try:
        with _asked_to_stop() as asked:
            done = _follow(train(job(model_path, run, settings, world=world), asked), world)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if done else 130)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
