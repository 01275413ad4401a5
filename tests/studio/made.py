"""Takes in a studio's folder that no model made: spoken lines, small pictures, and the records that real ones have."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from mlx_ltxw.media.audio import write_wav
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
              request: dict | None = None, sound_alone: bool = False, **take) -> int:  # fmt: skip
    """Writes an mp4 of two seconds into a studio, or a wav, and remembers it; its number.

    Args:
        folder: The studio's.
        manner: Register that is heard.
        line: What is said.
        seed: Written into its record.
        shown: Which picture; the same number, the same picture.
        sound_alone: Whether it is a wav.
        request: Fields of its request that are to be others.
        take: Fields of `KeptTake` that are to be others.
    """
    place = StudioFolder.open(folder)
    ending = ".wav" if sound_alone else ".mp4"
    path = place.takes / f"made-{len([*place.takes.glob('made-*')]) + 1}{ending}"
    prompt = f'a dim room, (woman, {manner}): "{line}"'
    asked = Request(prompt, seeds=(seed,), width=64, height=64, audio_only=sound_alone, **(request or {}))
    record = json.loads(json.dumps({"kind": "clip", **dataclasses.asdict(asked)}))
    key = (manner, line, seed, shown, sound_alone, str(request))
    if key not in _made:  # encoding takes longest
        wave = np.repeat(resample(spoken(line, "f2", manner, FRAMES / 24)[:, None], RATE, 48000), 2, 1)
        if sound_alone:
            write_wav(path, wave, 48000, metadata=record)
        else:
            write_mp4(path, [pictures(FRAMES, seed=shown)], 24, wave, metadata=record)
        _made[key] = path.read_bytes()
    path.write_bytes(_made[key])
    found = measure(path)
    values = {
        "job": None, "file": path.name, "kind": "clip", "seed": seed, "number": None, "prompt": prompt,
        "asked_register": manner, "record": read_metadata(path), "model": None, "seconds": probe(path).duration,
        "has_picture": not sound_alone, "register": found.register, "confidence": found.confidence, "lufs": found.lufs,
        "voiced": found.voiced, **take,
    }  # fmt: skip
    store = Store(place.database)
    number = store.add_take(values)
    store.close()
    return number
