"""What a run is given beside a model and an adapter, and what it finds of earlier runs: damaged, or something else."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from scripts.campaign.kinds import Command, Kind, written
from scripts.campaign.made import PROMPT, SMALL, Made, command
from scripts.campaign.mutate import damaged_bytes, damaged_safetensors

_PICTURES = ("a.png", "a.jpg", "a.webp", "a.tif", "a.gif", "a.bmp", "a.jp2")
_STEPS = [*SMALL[:-1], "4"]


def given(made: Made, folder: Path) -> Iterator[Kind]:
    """Pictures and sounds; the state of a run that was cut, and the kept contexts of a prompt."""
    files = folder / "given"
    files.mkdir()
    yield Kind("picture", _one_of(_pictures(files / "pictures")), _with(made, "--image"), written)
    yield Kind("sound", _one_of(_sounds(made, files / "sounds")), _with(made, "--audio"), written)
    whole = files / "whole.mp4"
    _run(_again(made, whole))
    wanted = _content(whole)

    def same(work: Path, arguments: Command, output: str) -> str | None:
        out = work / "out.mp4"
        if not out.exists():
            return "ends well and writes no out.mp4"
        return None if _content(out) == wanted else "makes another clip, and says nothing"

    # elsewhere than the clips above, so that its record is that of `work`
    kept = _cut(made, files / "cut")
    yield Kind(
        "unfinished", _in_place_of(kept, "out.mp4.unfinished"), lambda work: [_again(made, work / "out.mp4")], same
    )
    contexts = _contexts(made, files / "cache")

    def with_cache(work: Path, dice: Random) -> None:
        shutil.copytree(contexts, work / "cache")
        path = dice.choice(sorted((work / "cache").rglob("*.safetensors")))
        data = path.read_bytes()
        path.unlink()
        place(path, damaged_safetensors(data, dice), dice)
        os.environ["MLX_LTXW_CACHE"] = str(work / "cache")

    yield Kind("prompt cache", with_cache, lambda work: [_again(made, work / "out.mp4")], same)
    os.environ["MLX_LTXW_CACHE"] = "0"


def _again(made: Made, out: Path) -> Command:
    return ["generate", PROMPT, "-m", made.model, "-o", out, *_STEPS]


def _with(made: Made, flag: str) -> Callable[[Path], list[Command]]:
    def commands(work: Path) -> list[Command]:
        (file,) = work.glob("a.*")
        return [["generate", PROMPT, "-m", made.model, "-o", work / "out.mp4", *SMALL, flag, file]]

    return commands


def _run(arguments: Command) -> None:
    subprocess.run(command(*arguments), check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _content(clip: Path) -> str:
    """A hash of each track, decoded by another program: decoders' threads in this process would not outlive a fork."""
    call: list[str | Path] = ["ffmpeg", "-v", "error", "-i", clip, "-f", "streamhash", "-"]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout


def _pictures(folder: Path) -> list[Path]:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    for name in _PICTURES:
        Image.fromarray(pixels).save(folder / name)
    return sorted(folder.iterdir())


def _sounds(made: Made, folder: Path) -> list[Path]:
    folder.mkdir()
    for name in ("a.wav", "a.mp3", "a.m4a", "a.ogg"):
        subprocess.run(["ffmpeg", "-v", "error", "-i", made.clips / "0.wav", "-ar", "44100", folder / name], check=True)
    return sorted(folder.iterdir())


def _cut(made: Made, folder: Path) -> Path:
    """What is beside a clip of which some steps are done."""
    folder.mkdir()
    kept = folder / "out.mp4.unfinished"
    for _ in range(20):
        (folder / "out.mp4").unlink(missing_ok=True)
        process = subprocess.Popen(command(*_again(made, folder / "out.mp4")), stderr=subprocess.DEVNULL)
        while process.poll() is None and not kept.exists():
            time.sleep(0.001)
        process.kill()
        process.wait()
        if kept.exists():
            return kept
    raise RuntimeError("the clip was always done before it was cut")


def _contexts(made: Made, folder: Path) -> Path:
    """The folder with the kept contexts of the prompt."""
    os.environ["MLX_LTXW_CACHE"] = str(folder)
    _run(_again(made, folder.parent / "first.mp4"))
    os.environ["MLX_LTXW_CACHE"] = "0"
    return folder


def _one_of(files: list[Path]) -> Callable[[Path, Random], None]:
    def spoil(work: Path, dice: Random) -> None:
        source = dice.choice(files)
        place(work / source.name, damaged_bytes(source.read_bytes(), dice), dice)

    return spoil


def _in_place_of(source: Path, name: str) -> Callable[[Path, Random], None]:
    def spoil(work: Path, dice: Random) -> None:
        place(work / name, damaged_safetensors(source.read_bytes(), dice), dice)

    return spoil


def place(path: Path, data: bytes, dice: Random) -> None:
    """A damaged file, or sometimes something that is no file, or lies elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match dice.randrange(24):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to("/dev/zero")
        case 3:
            path.symlink_to(path.name)
        case 4:
            path.symlink_to("/none/there")
        case 5:
            elsewhere = path.parent / "elsewhere"
            elsewhere.write_bytes(data)
            path.symlink_to(elsewhere.name)
        case 6:
            with path.open("wb") as file:
                file.write(data)
                file.truncate(5 << 30)
        case _:
            path.write_bytes(data)
