"""Takes for the history that no model made: a drawn picture, a tone, and the record that a real one has."""

import time
from pathlib import Path

import numpy as np

from mlx_ltxw.media.mp4 import open_mp4
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.store import Store
from mlx_ltxw.takes.make import fit
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.takes.record import clip_record

PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes"'
RATE = 48_000


def planned(**fields) -> Plan:
    """A plan of the built-in model's."""
    fields = {"prompt": PROMPT, "adapters": ("whisper",), "frames": 25, "seeds": (10,), **fields}
    return fit(Request(**fields), open_model())


def drawn_clip(path: Path, job: Plan | None = None, tone: float = 220.0) -> dict:
    """Writes an mp4 of a second as the program writes them; its record."""
    job = job or planned()
    settings = job.settings
    record = clip_record(job, settings.seeds[0])
    time_axis = np.arange(RATE) / RATE
    wave = (0.2 * np.sin(2 * np.pi * tone * time_axis)).astype(np.float32)[:, None].repeat(2, 1)
    with open_mp4(path, settings.width, settings.height, settings.frame_rate, metadata=record) as file:
        for number in range(settings.frames):
            frame = np.full((1, settings.height, settings.width, 3), 40, np.uint8)
            frame[:, :, number * settings.width // settings.frames :] = 160
            file.frames(frame)
        file.audio(wave)
    return record


def drawn_take(folder: Path, number: int = 1, **fields) -> int:
    """Puts a take into a studio's folder and history; its number.

    Args:
        folder: The studio's.
        number: Of the file.
        fields: Of the kept take that are to be others.
    """
    place = StudioFolder.open(folder)
    name = f"{number:06d}.mp4"
    record = drawn_clip(place.takes / name)
    store = Store(place.database)
    try:
        return store.add_take(kept(name, record) | fields)
    finally:
        store.close()


def kept(name: str, record: dict) -> dict:
    """The fields of a take."""
    return {
        "job": None, "created": time.time(), "file": name, "kind": "clip", "seed": record["seeds"][0], "number": None,
        "prompt": record["prompt"], "asked_register": "whispering", "record": record, "model": None, "seconds": 1.0,
        "has_picture": 1, "register": "whispering", "confidence": 0.9, "lufs": -20.0, "voiced": 0.1,
    }  # fmt: skip
