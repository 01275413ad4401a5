"""The README's picture: one prompt without and with the whisper adapter, frames above spectrograms.

    python -m scripts.readme_picture

makes both clips with the built-in model, about a minute on two idle cores, and writes `docs/images/whisper.png`. Under
the video lock the frames are the same to the last bit, which is checked before anything is drawn.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import mlx_ltxw as ltx
from mlx_ltxw.media.drawing import write_spectrogram

PROMPT = 'a woman with red hair by a window, (woman, whispering): "the cat is hiding behind the curtain"'
SEED = 10
WIDTH, FRAMES, MARGIN, LINE, GAP = 880, 6, 14, 22, 4
PAPER, INK, QUIET = (255, 255, 255), (30, 30, 30), (110, 110, 110)
Titled = tuple[str, ltx.Clip]
OUT = Path(__file__).parents[1] / "docs" / "images" / "whisper.png"


def clips() -> list[Titled]:
    """Title and clip, without and with the adapter."""
    with ltx.load() as model:
        normal = model.generate(PROMPT, seed=SEED)
        whisper = model.generate(PROMPT, seed=SEED, adapter="whisper")
    if not np.array_equal(normal.frames, whisper.frames):
        raise SystemExit("The adapter moved the picture, which the video lock should keep.")
    return [("without an adapter", normal), ("--adapter whisper", whisper)]


def strip(frames: np.ndarray) -> Image.Image:
    """`FRAMES` frames of (F, H, W, 3) uint8, evenly spread over the line, in a row."""
    places = (np.linspace(0.05, 0.65, FRAMES) * len(frames)).astype(int)
    size = (WIDTH - 2 * MARGIN - (FRAMES - 1) * GAP) // FRAMES
    row = Image.new("RGB", (WIDTH - 2 * MARGIN, size), PAPER)
    for number, place in enumerate(places):
        frame = Image.fromarray(frames[place]).resize((size, size), Image.Resampling.LANCZOS)
        row.paste(frame, (number * (size + GAP), 0))
    return row


def spectrogram(made: list[Titled]) -> Image.Image:
    """Both sounds on one scale of time, frequency and level."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.png"
        titles = [f"{title}    {told(clip)}" for title, clip in made]
        write_spectrogram(path, [clip.waveform for _, clip in made], made[0][1].sample_rate, titles=titles)
        with Image.open(path) as picture:
            return picture.convert("RGB")


def told(clip: ltx.Clip) -> str:
    """What `mlx-ltxw measure` says of a clip."""
    found = clip.measure()
    return f"heard: {found.register}, {found.lufs:.0f} LUFS, {found.voiced:.0%} voiced"


def draw(made: list[Titled]) -> Image.Image:
    """The frames once, since they are the same, and below them both sounds."""
    frames, sounds = strip(made[0][1].frames), spectrogram(made)
    sounds = sounds.resize((WIDTH, round(sounds.height * WIDTH / sounds.width)), Image.Resampling.LANCZOS)
    texts = [(PROMPT, INK), ("One picture for both, the same to the last bit; the sound differs:", QUIET)]
    height = 3 * MARGIN + LINE * len(texts) + frames.height + sounds.height
    page = Image.new("RGB", (WIDTH, height), PAPER)
    pen, font, top = ImageDraw.Draw(page), ImageFont.load_default(15), MARGIN
    for text, colour in texts:
        pen.text((MARGIN, top), text, colour, font)
        top += LINE
    page.paste(frames, (MARGIN, top))
    top += frames.height + MARGIN
    page.paste(sounds, (0, top))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out: Path = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(clips()).quantize(256).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
