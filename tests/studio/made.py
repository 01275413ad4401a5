"""Takes in a studio's folder that no model made: spoken lines, small pictures, and the records that real ones have."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.measure import measure
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.media.resample import resample
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.store import Store
from tests.train.recordings import RATE, pictures, spoken

LINE = "close your eyes and listen to the rain"
FRAMES = 49
_made: dict[tuple, bytes] = {}


def made_take(folder: Path, manner: str = "normal", line: str = LINE, *, seed: int = 3, shown: int = 0,
              request: dict | None = None, **take) -> int:  # fmt: skip
    """Writes an mp4 of two seconds into a studio, and remembers it; its number.

    Args:
        folder: The studio's.
        manner: Register that is heard.
        line: What is said.
        seed: Written into its record.
        shown: Which picture; the same number, the same picture.
        request: Fields of its request that are to be others.
        take: Fields of `KeptTake` that are to be others.
    """
    place = StudioFolder.open(folder)
    path = place.takes / f"made-{len([*place.takes.glob('made-*.mp4')]) + 1}.mp4"
    prompt = f'a dim room, (woman, {manner}): "{line}"'
    record = {
        "kind": "clip",
        **dataclasses.asdict(Request(prompt, seeds=(seed,), width=64, height=64, **(request or {}))),
    }
    record = json.loads(json.dumps(record))
    key = (manner, line, seed, shown, str(request))
    if key not in _made:  # encoding takes longest
        wave = resample(spoken(line, "f2", manner, FRAMES / 24)[:, None], RATE, 48000)
        write_mp4(path, [pictures(FRAMES, seed=shown)], 24, np.repeat(wave, 2, 1), metadata=record)
        _made[key] = path.read_bytes()
    path.write_bytes(_made[key])
    found = measure(path)
    values = {
        "job": None, "file": path.name, "kind": "clip", "seed": seed, "number": None, "prompt": prompt,
        "asked_register": manner, "record": read_metadata(path), "model": None, "seconds": probe(path).duration,
        "has_picture": True, "register": found.register, "confidence": found.confidence, "lufs": found.lufs,
        "voiced": found.voiced, **take,
    }  # fmt: skip
    store = Store(place.database)
    number = store.add_take(values)
    store.close()
    return number
