"""One decoded clip to its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.mp4 import open_mp4
from mlx_ltxw.media.remux import remux
from mlx_ltxw.pipeline.events import Decoded
from mlx_ltxw.pipeline.request import Settings
from mlx_ltxw.takes.events import Decoding, Suspect
from mlx_ltxw.takes.suspect import Suspicion


def write_files(
    paths: list[Path], clip: Decoded, settings: Settings, metadata: Mapping[str, Any], picture: Path | None = None
) -> Iterator[Decoding | Suspect]:
    """Writes the files of one clip, each whole or not at all; its frames are decoded on the way.

    Args:
        paths: Of one clip: an mp4 or wav, then what goes beside it, wav or png (`Output.names`).
        clip: The run's `Decoded`; its frames are taken here.
        settings: Every choice of the run, resolved.
        metadata: Stored in each mp4 and wav.
        picture: A clip that has the very picture, which is copied instead of encoded again.

    Yields:
        How far the frames are; then, before the first file has its name, what is wrong with the clip, if anything is.
    """
    main, *others = paths
    suspicion = Suspicion(clip, settings.makes_sound)
    if main.suffix.lower() == ".wav":
        yield from _suspect(suspicion, clip)
        write_wav(main, clip.waveform, clip.rate, metadata=metadata)
    elif clip.video is None and (source := picture or settings.video) is not None:
        yield from _suspect(suspicion, clip)
        remux(source, clip.waveform, main, metadata=metadata)
    elif clip.video is not None:
        size = settings.width, settings.height, settings.frame_rate
        kept = None if settings.makes_sound else settings.audio or settings.video
        with open_mp4(main, *size, metadata=metadata, sound_from=kept) as file:
            for frames in clip.video:
                file.frames(suspicion.frames(frames))
                yield Decoding(clip.seed, file.count, settings.frames)
            yield from _suspect(suspicion, clip)
            file.audio(clip.waveform)
    write_beside(others, clip, metadata)


def write_beside(paths: list[Path], clip: Decoded, metadata: Mapping[str, Any]) -> None:
    """Writes a clip's sound as wav, and as a picture of its spectrum."""
    for path in paths:
        if path.suffix == ".wav":
            write_wav(path, clip.waveform, clip.rate, metadata=metadata)
        else:
            from mlx_ltxw.media.drawing import write_spectrogram  # Pillow, when a picture is wanted

            write_spectrogram(path, clip.waveform, clip.rate)


def write_lossless(path: Path, clip: Decoded, settings: Settings) -> Iterator[Decoding | Suspect]:
    """Writes a clip's picture, if it has one, as mp4, and then its sound as the wav `path`, both without loss.

    Yields: as `write_files`.
    """
    suspicion = Suspicion(clip, settings.makes_sound)
    if clip.video is not None:
        picture = path.with_suffix(".mp4")
        size = settings.width, settings.height, settings.frame_rate
        with open_mp4(picture, *size, sound=False, lossless=True) as file:
            for frames in clip.video:
                file.frames(suspicion.frames(frames))
                yield Decoding(clip.seed, file.count, settings.frames)
            yield from _suspect(suspicion, clip)
    else:
        yield from _suspect(suspicion, clip)
    write_wav(path, clip.waveform, clip.rate, subtype="FLOAT")


def _suspect(suspicion: Suspicion, clip: Decoded) -> Iterator[Suspect]:
    if notes := suspicion.notes:
        yield Suspect(clip.seed, notes)


def all_frames(clip: Decoded) -> np.ndarray | None:
    """The clip's picture, (F, H, W, 3) uint8; None without one. Takes the frames, so ask once."""
    return None if clip.video is None else np.concatenate(list(clip.video))
