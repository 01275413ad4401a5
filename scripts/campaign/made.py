"""What campaigns work on: a made tiny model and some spoken clips."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mlx_ltxw.errors import UserError
from scripts.make_checkpoint import make as make_checkpoint

PROMPT = 'a dim room, (woman, whispering): "close your eyes"'
SMALL = ["--width", "64", "--height", "64", "--frames", "9", "--steps", "1"]
FRAMES = 33  # at 24 a second; a little longer than the lines
_LINES = ("close your eyes now", "nobody is here", "the boats came home")


@dataclass(frozen=True)
class Made:
    """Files that every part of a campaign reads and none changes.

    Attributes:
        checkpoint: A tiny checkpoint in the official format.
        gemma: Its text encoder.
        model: Both, converted.
        clips: Three wavs of a second and more, with captions.
    """

    checkpoint: Path
    gemma: Path
    model: Path
    clips: Path


def command(*arguments: object) -> list[str]:
    """`mlx-ltxw ...` as a process of its own."""
    return [
        sys.executable,
        "-c",
        "import sys; from mlx_ltxw.__main__ import main; sys.exit(main())",
        *map(str, arguments),
    ]


def make(folder: Path) -> Made:
    """Makes them in a folder.

    Raises:
        UserError: espeak-ng or ffmpeg is not installed.
    """
    for program in ("espeak-ng", "ffmpeg"):
        if not shutil.which(program):
            raise UserError(f"{program} is not installed.", "Install it.")
    made = make_checkpoint(folder / "made", "tiny")
    model, clips = folder / "model", folder / "clips"
    subprocess.run(command("convert", made.checkpoint, "--text-encoder", made.gemma, "-o", model), check=True)
    clips.mkdir()
    for number, line in enumerate(_LINES):
        wav = clips / f"{number}.wav"
        subprocess.run(["espeak-ng", "-v", "en-us+f3", "-s", "200", "-w", wav, line], check=True)
        wav.with_suffix(".txt").write_text(f'a dim room, (woman): "{line}"')
    return Made(made.checkpoint, made.gemma, model, clips)
