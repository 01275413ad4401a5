"""What the released model makes of a picture, of a sound and of a stretch of a clip that it is given, measured.

`python -m scripts.voice_model.evaluate_given --out DIR` makes one clip of each line without an adapter, then:
its first picture given back to its own and to other captions (whose face talks, and does the mouth move with the
sound), its sound made again whispering at several strengths (how much voice is left, and is it the same line), and its
middle whispered alone (voice within the stretch and outside of it). Clips that are there are not made again. Needs
espeak-ng.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import mlx_ltxw as ltx
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.video import read_video
from scripts.voice_model.corpus import SENTENCES, VOICES, caption, default_voice
from scripts.voice_model.evaluate_clips import Prompt, prompts
from scripts.voice_model.measure import RATE, Voicing, nearest
from scripts.voice_model.mouth import correlation, heard_opening, seen_opening
from scripts.voice_model.true_clips import cepstra_of, speak_missing, true_cepstra

STRENGTHS = (0.5, 0.7, 0.8, 0.9, 1.0)
FACE = 0.05, 0.62
"""Of a picture's height: hair, eyes and cheeks, above the mouth."""
TOLD = (
    ("the same person", ""),
    ("another", ""),
    ("no hair", ""),
    ("another in a forest", ""),
    ("another", ":0.7"),
    ("another", "@96"),
)
"""Whom the caption names, and how the picture is given: strength, frame."""


class Bench:
    """Makes clips into a folder, or finds them there."""

    def __init__(self, folder: Path, steps: int | None) -> None:
        self.folder = folder
        self.model = ltx.load()
        self._sizes: dict[str, Any] = {} if steps is None else {"steps": steps}
        self._config = self.model.directory.network_config("audio_vae")

    def clip(self, name: str, text: str, seed: int, **given: Any) -> Path:
        path = self.folder / f"{name}.mp4"
        if not path.exists():
            (clip,) = self.model.clips(ltx.Request(text, seeds=(seed,), **self._sizes, **given))
            clip.save(path)
            print(path.name, file=sys.stderr)
        return path

    def base(self, prompt: Prompt) -> Path:
        """The line in the model's normal voice."""
        return self.clip(f"base-{prompt.number}", prompt.text("plain"), 7 + prompt.number)

    def is_line(self, path: Path, prompt: Prompt, register: str) -> bool:
        """Whether, of all lines as the voice says them in a register, the clip's own is nearest to its sound."""
        true = true_cepstra(self.folder / "true", prompt.voice, register, self._config)
        return nearest(cepstra_of(sound(path), self._config), true) == prompt.sentence


def sound(path: Path) -> np.ndarray:
    """(N,) at 16 kHz."""
    return read_audio(path, RATE, 1)[:, 0]


def picture(path: Path) -> np.ndarray:
    """All frames (F, H, W, 3) uint8."""
    info = probe(path)
    assert info.width is not None
    assert info.height is not None
    assert info.fps is not None
    return read_video(path, 97, info.fps, info.width, info.height)


def mouth(path: Path) -> float:
    """Correlation of the mouth's opening with the sound's envelope."""
    seen = seen_opening(picture(path))
    return correlation(seen, heard_opening(sound(path), len(seen)))


def above_mouth(path: Path) -> np.ndarray:
    """A clip's frames above the mouth, each less its brightness: (F, h, W, 3)."""
    frames = picture(path).astype(np.float32)
    top, bottom = (round(part * frames.shape[1]) for part in FACE)
    return frames[:, top:bottom] / frames[:, top:bottom].mean((1, 2, 3), keepdims=True)


def face(path: Path) -> np.ndarray:
    """The mean of that over the clip: (h, W, 3)."""
    return above_mouth(path).mean(0)


def share_of(path: Path, voice: int, known: dict[int, np.ndarray]) -> float:
    """The share of a clip's frames that are nearer to one voice's face than to any other."""
    frames, voices = above_mouth(path), list(known)
    apart = np.stack([np.abs(frames - known[one]).mean((1, 2, 3)) for one in voices])  # (voices, F)
    return float((apart.argmin(0) == voices.index(voice)).mean())


def faces(bench: Bench, lines: Sequence[Prompt]) -> None:
    """The first picture of each clip under captions of its own person, of another, of nobody in particular and of
    another elsewhere; at a lower strength, and as the last frame."""
    known = {line.voice: face(bench.base(line)) for line in lines}
    for line in lines:
        Image.fromarray(picture(bench.base(line))[0]).save(_still(bench, line))
    others = list(zip(lines, [*lines[1:], lines[0]], strict=True))
    print("| caption | given | frames of the picture's face | lowest of a clip | mouth | lowest | line said |")
    print("|---|---|---|---|---|---|---|")
    for said, where in TOLD:
        found = []
        for line, other in others:
            speaker, text = _told(said, line, other)
            name = f"image-{line.number}-{said.replace(' ', '-')}{where.replace(':', '-').replace('@', '-at-')}"
            path = bench.clip(name, text, 100 + line.number, images=(f"{_still(bench, line)}{where}",))
            row = share_of(path, line.voice, known), mouth(path), float(bench.is_line(path, speaker, "normal"))
            found.append(row)
            print(name, *(f"{value:.2f}" for value in row), file=sys.stderr, flush=True)
        share, follows, right = np.array(found).T
        cells = (share.mean(), share.min(), follows.mean(), follows.min())
        shown = " | ".join(f"{value:.2f}" for value in cells)
        print(f"| {said} | {where or 'first frame'} | {shown} | {right.sum():.0f} of {len(right)} |", flush=True)


def _still(bench: Bench, line: Prompt) -> Path:
    return bench.folder / f"face-{line.number}.png"


def _told(said: str, line: Prompt, other: Prompt) -> tuple[Prompt, str]:
    """Who speaks, and the caption."""
    if said == "the same person":
        return line, line.text("plain")
    voice = VOICES[other.voice]
    if said == "no hair":  # then the first voice of that gender speaks
        speaker = VOICES.index(default_voice(voice.gender))
        unnamed = caption(voice, "", SENTENCES[other.sentence], name_hair=False)
        return Prompt(other.number, speaker, other.sentence), unnamed
    scene = "in a forest" if said == "another in a forest" else ""
    return other, caption(voice, "", SENTENCES[other.sentence], scene)


def revoiced(bench: Bench, lines: Sequence[Prompt]) -> None:
    """Each clip's sound made again, whispering, at every strength."""
    print("| strength | voiced | same line |\n|---|---|---|")
    before = [Voicing.of(sound(bench.base(line))).fraction for line in lines]
    print(f"| as given | {np.mean(before):.2f} | {_share(bench, lines, [bench.base(x) for x in lines], 'normal')} |")
    for strength in STRENGTHS:
        paths = [
            bench.clip(
                f"revoice-{line.number}-{strength}", line.text("whisper"), 7 + line.number,
                video=str(bench.base(line)), revoice=strength, adapters=("whisper",),
            )
            for line in lines
        ]  # fmt: skip
        voiced = np.mean([Voicing.of(sound(path)).fraction for path in paths])
        print(f"| {strength:g} | {voiced:.2f} | {_share(bench, lines, paths, 'whisper')} |", flush=True)


def _share(bench: Bench, lines: Sequence[Prompt], paths: Sequence[Path], register: str) -> str:
    right = sum(bench.is_line(path, line, register) for path, line in zip(paths, lines, strict=True))
    return f"{right} of {len(lines)}"


def retaken(bench: Bench, lines: Sequence[Prompt]) -> None:
    """The middle third of what each clip says, whispered alone."""
    print("| line | stretch | voiced before | in it | after | before, given | in it, given | after, given |")
    print("|---|---|---|---|---|---|---|---|")
    for line in lines:
        base = bench.base(line)
        said = np.flatnonzero(Voicing.of(sound(base)).active) / 100
        start, end = (round(float(np.quantile(said, part)), 2) for part in (0.33, 0.67))
        path = bench.clip(
            f"retake-{line.number}", line.text("whisper"), 7 + line.number,
            video=str(base), retake=f"{start}-{end}", retake_what="sound", adapters=("whisper",),
        )  # fmt: skip
        parts = [voiced_in(wave, start, end) for wave in (sound(path), sound(base))]
        cells = " | ".join(f"{value:.2f}" for three in parts for value in three)
        print(f"| {line.sentence} | {start}-{end} s | {cells} |", flush=True)


def voiced_in(wave: np.ndarray, start: float, end: float) -> tuple[float, float, float]:
    """Voiced share of a sound (N,) at 16 kHz before, within and after a stretch; 80 ms around its ends are left out."""
    heard = Voicing.of(wave)
    first, last = (round(second * 100) for second in (start, end))
    parts = (slice(0, first - 8), slice(first + 8, last - 8), slice(last + 8, None))
    before, within, after = (float(heard.voiced[part].sum() / max(heard.active[part].sum(), 1)) for part in parts)
    return before, within, after


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips")
    parser.add_argument("--count", type=int, default=8, help="lines (8)")
    parser.add_argument("--steps", type=int, help="denoising steps (the model's own)")
    parser.add_argument("--only", choices=("faces", "revoice", "retake"), help="one of the three")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    lines = prompts(given.count)
    voices = {line.voice for line in lines} | {VOICES.index(default_voice(gender)) for gender in ("woman", "man")}
    speak_missing(given.out / "true", {(voice, register) for voice in voices for register in ("normal", "whisper")})
    bench = Bench(given.out, given.steps)
    for name, measure in (("faces", faces), ("revoice", revoiced), ("retake", retaken)):
        if given.only in (None, name):
            measure(bench, lines)


if __name__ == "__main__":
    main()
