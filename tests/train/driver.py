"""Runs the training loop on made clips, in a process of its own: `python -m tests.train.driver MODEL RUN key=value...`.

The clips are files of the cache with drawn numbers; everything else is what `mlx-ltxw train --resume` does. Set in the
environment: `BASE=streamed` or `shared`, `SOUNDS=03` (numbers of clips without a picture), `HELD_OUT=1` (how many),
`SLOW_FROM=5` (`tests/slowed.py`).
"""

import dataclasses
import os
import resource
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import mlx_ltxw  # noqa: F401  (loads OpenBLAS before MLX)
from tests.slowed import wait

WIDTH, HEIGHT, FRAMES, RATE = 64, 64, 17, 24.0
VIDEO_TOKENS, AUDIO_TOKENS = 3 * 2 * 2, 18
CAPTIONS = [
    'a dim room, (woman, whispering): "close your eyes"',
    'a garden, (man, speaking softly): "the rain has stopped"',
    'a kitchen, (woman, whispering): "breathe slowly now"',
]
QUICK = ["preview_prompts=a tone", "preview_steps=1", "preview_every=0", "rank=2", "alpha=2", "learning_rate=1e-3"]


def clip_files(folder, model, count=5, sound_alone=()):
    """Made clips as the cache keeps them; those in `sound_alone` have no picture. Machines of one run share them."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number}{'-sound' if number in sound_alone else ''}.safetensors" for number in range(count)]
    for number, file in enumerate(files):
        if not file.exists():
            partial = file.with_suffix(f".{os.getpid()}")
            arrays, facts = made_clip(model, number, picture=number not in sound_alone)
            save_file(arrays, partial, facts)
            partial.replace(file)
    return files


def made_clip(model, number, picture):
    """Arrays and facts of one file of the cache, drawn from its number."""
    config = model.network_config("transformer")
    random = np.random.default_rng(number)
    shapes = {
        "video": (VIDEO_TOKENS, config.video.in_channels),
        "audio": (AUDIO_TOKENS, config.audio.in_channels),
        "video_context": (6, config.video.context_dim),
        "audio_context": (6, config.audio.context_dim),
    }
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    if not picture:
        del arrays["video"]
    facts = {"key": f"key{number}", "name": f"{number}.mp4", "caption": CAPTIONS[number % 3], "width": WIDTH}
    facts |= {"height": HEIGHT, "frames": FRAMES, "frame_rate": RATE}
    return arrays, {name: str(value) for name, value in facts.items()}


def job(model_path, run, settings, sound_alone=(), world=None, count=5):
    """What `loop.train` takes, on made clips."""
    from mlx_ltxw.train import loop
    from mlx_ltxw.train.config import read_config
    from mlx_ltxw.weights.model_dir import ModelDir
    from mlx_ltxw.world import World

    model = ModelDir.open(model_path)
    run.mkdir(exist_ok=True)
    sizes = [f"width={WIDTH}", f"height={HEIGHT}", f"frames={FRAMES}", f"frame_rate={RATE}"]
    config = read_config(None, [*QUICK, *sizes, *settings])
    return loop.Job(config, model, clip_files(run / "clips", model, count, sound_alone), run, world or World())


def slowed(events):
    """The same, later."""
    from mlx_ltxw.train.events import Progress

    with closing(events):
        for event in events:
            if isinstance(event, Progress):
                wait(event.step)
            yield event


def main(model_path, run, settings):
    from mlx_ltxw.cli.train import _asked_to_stop, _follow
    from mlx_ltxw.errors import UserError
    from mlx_ltxw.train.base import shared_residency
    from mlx_ltxw.train.loop import train
    from mlx_ltxw.weights.streaming import Residency
    from mlx_ltxw.world import World

    if limit := os.environ.get("LARGEST_FILE"):  # as on a full disk, a larger one cannot be written
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    world = World.join()
    task = job(model_path, run, settings, world=world, sound_alone=tuple(map(int, os.environ.get("SOUNDS", ""))))
    if os.environ.get("BASE") == "streamed":
        task = dataclasses.replace(task, residency=Residency(0, audio_stays=True))
    elif os.environ.get("BASE") == "shared":
        task = dataclasses.replace(task, residency=shared_residency(task.config), shared=True)
    if held := int(os.environ.get("HELD_OUT", "0")):
        task = dataclasses.replace(task, clips=task.clips[held:], held_out=task.clips[:held])
    try:
        with _asked_to_stop() as asked:
            done = _follow(slowed(train(task, asked)), world, asked)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if done else 128 + (asked.number or 2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
