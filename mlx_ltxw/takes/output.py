"""The files a run leaves: their names, and what must not be there yet."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import check_free, check_writable
from mlx_ltxw.pipeline.request import Settings

_WAV = 48_000 * 4  # bytes a second of stereo in 16 bits
_AAC = 32_000
_PIXEL = 0.1  # bytes of a busy picture's pixel
_PNG = 2_000_000


@dataclass(frozen=True)
class Output:
    """The files a user asked for.

    Attributes:
        path: As the user named it; several seeds get `-SEED` before the ending. A wav of a clip with a picture gets
            its sound alone.
        wav: Whether a wav goes beside the mp4.
        spectrogram: Whether a picture of the spectrum goes beside it.
        overwrite: Whether files of these names may be replaced.
        tracks: Whether takes are the sound tracks of one mp4; otherwise each has files of its own, `.take1` and so on
            before the ending.
        preview: Steps from one preview to the next (`takes/preview.py`); 0 for none.
        preview_sound: Whether a preview is to be heard as well.
        resume: Whether a run that was cut goes on (`takes/unfinished.py`), and does not begin anew.
    """

    path: Path
    wav: bool = False
    spectrogram: bool = False
    overwrite: bool = False
    tracks: bool = False
    preview: int = 0
    preview_sound: bool = True
    resume: bool = True

    def main(self, settings: Settings, seed: int) -> Path:
        """The main file of one clip, or of all its takes."""
        return self.path if len(settings.seeds) == 1 else self.path.with_stem(f"{self.path.stem}-{seed}")

    def names(self, settings: Settings, seed: int, take: int | None = None) -> list[Path]:
        """The files of one clip, or of one of its takes: the main one first, unless it is that of all takes."""
        main = self.main(settings, seed)
        if take is not None:
            main = main.with_stem(f"{main.stem}.take{take}")
        names = [] if take is not None and self.tracks else [main]
        if self.wav and main.suffix.lower() != ".wav":
            names.append(main.with_suffix(".wav"))
        if self.spectrogram:
            names.append(main.with_suffix(".png"))
        return names

    def previews(self) -> list[Path]:
        """The files of a preview: picture and sound."""
        return previews_of(self.path)

    def check(self, settings: Settings, own: Collection[Path] = ()) -> None:
        """Refuses what cannot be written before any work is done.

        Args:
            settings: Of the run.
            own: Files that the same run wrote before it was cut, which it may replace.

        Raises:
            UserError: a wrong ending, a missing folder, no permission, or a file that is there and may not be replaced.
        """
        given = settings.video is not None or not settings.makes_sound
        endings = (".wav",) if settings.audio_only else (".mp4",) if given else (".mp4", ".wav")
        if self.path.suffix.lower() not in endings:
            kind = "Sound alone" if settings.audio_only else "A video"
            wanted = " or ".join(endings)
            raise UserError(f"{kind} cannot be written to {self.path.name}.", f"Give a name that ends in {wanted}.")
        if self.tracks and not settings.takes:
            raise UserError("{field:take_tracks} has no takes.", "Add {field:takes}.")
        if self.tracks and self.path.suffix.lower() != ".mp4":
            raise UserError(f"{self.path.name} cannot hold several tracks.", "Give a name that ends in .mp4.")
        takes: list[int | None] = [*range(1, len(settings.takes) + 1)] or [None]
        names = [path for seed in settings.seeds for take in takes for path in self.names(settings, seed, take)]
        names += [self.main(settings, seed) for seed in settings.seeds if self.tracks]
        names += self.previews() if self.preview else []
        for path in names:
            check_writable(path)
        refuse_existing([path for path in names if path not in own], self.overwrite)
        needed = sum(_bytes(path, settings) for path in names)
        check_free(self.path.parent, needed, "the clip needs", "or choose another folder.")


def previews_of(output: Path) -> list[Path]:
    """The files of a preview of what goes to `output`."""
    return [output.with_name(f"{output.stem}.preview{ending}") for ending in (".png", ".wav")]


def _bytes(path: Path, settings: Settings) -> int:
    """About what a file takes."""
    seconds = settings.frames / settings.frame_rate
    if path.suffix.lower() == ".wav":
        return round(seconds * _WAV)
    if path.suffix.lower() == ".png":
        return _PNG
    if settings.video is not None:
        return Path(settings.video).stat().st_size
    return round(seconds * _AAC + settings.frames * settings.width * settings.height * _PIXEL)


def refuse_existing(paths: list[Path], overwrite: bool) -> None:
    """Refuses names that are taken.

    Raises:
        UserError: names every file that is there.
    """
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        verb = "exists" if len(there) == 1 else "exist"
        raise UserError(
            f"{', '.join(there)} {verb} already.",
            "Give another output name, or replace it with {field:overwrite=True}.",
        )
