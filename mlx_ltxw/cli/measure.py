"""`mlx-ltxw measure`: loudness, voicing, timbre and the register of sound and video files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_ltxw.cli.fields import FileName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_ltxw.media.measure import Measurement

_COLUMNS = {  # heading -> key, width, format
    "LUFS": ("lufs", 7, ".1f"),
    "dBTP": ("true_peak", 7, ".1f"),
    "voiced": ("voiced", 7, ".2f"),
    "f0 Hz": ("f0", 7, ".1f"),
    "HNR dB": ("hnr", 7, ".1f"),
    "dB/oct": ("tilt", 7, ".1f"),
    "centre Hz": ("centroid", 10, ".0f"),
    "syll/s": ("rate", 7, ".1f"),
    "s": ("duration", 8, ".2f"),
}
_LETTERS = {"normal": "n", "soft": "s", "whispering": "w", "no speech": "·"}
_STRIP = 60  # letters at most
_REGISTER = 18
_PICTURE = "spectrograms.png"


@click.command()
@click.argument("files", nargs=-1, required=True, type=FileName(), metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file and line.")
@click.option(
    "--reference",
    type=FileName(),
    metavar="FILE",
    help="The same voice and microphone, spoken normally: soft is what is softer than it. Differences are printed too.",
)
@click.option(
    "--picture",
    type=FileName(),
    metavar="PNG",
    is_flag=False,
    flag_value=_PICTURE,
    help=f"Draw the files' spectrograms below each other, on common scales; {_PICTURE} when no name follows.",
)
@click.option("--overwrite", is_flag=True, help="Replace a picture that is there already.")
def measure(files: tuple[str, ...], as_json: bool, reference: str | None, picture: str | None, overwrite: bool) -> None:
    """Measure the voice in sound or video files and tell the register: normal, soft, whispering, mixed or no speech.

    Loudness and true peak after EBU R128; the voiced share of the speech, its median pitch, harmonics to noise,
    spectral tilt and centre, and syllables a second. Below each file stand its registers second by second (n, s, w, and
    a dot where nobody speaks) and what the answer rests on. Whispering is speech without voice, at any level. A voice
    is soft by effort (a steep spectrum, breath) at any level, or by level alone (below -23 LUFS), which a volume knob
    can do too: then little confidence is claimed, unless there is a --reference.

    Files that cannot be read are named at the end (exit 2); the others are measured all the same.
    """  # fmt: skip
    from mlx_ltxw.errors import UserError
    from mlx_ltxw.media.measure import measure as measure_file

    if picture is not None:
        _check_picture(picture, overwrite)
    base = measure_file(reference) if reference else None
    width = max(len(name) for name in (*files, "vs reference"))
    found: dict[str, Measurement] = {}
    failed: list[UserError] = []
    if not as_json:
        headings = "".join(f"{name:>{size}}" for name, (_, size, _) in _COLUMNS.items())
        click.echo(f"{'file':{width}}  {'register':{_REGISTER}}{headings}")
    for file in files:
        try:
            one = measure_file(file, reference=base)
        except UserError as error:
            failed.append(error)
            continue
        found[file] = one
        difference = one.minus(base) if base else None
        click.echo(_json(file, one, difference) if as_json else _table(file, one, difference, width))
    if picture is not None and found:
        _draw(found, picture)
        click.echo(f"written: {picture}", err=True)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        reasons = " ".join(error.message for error in failed)
        raise UserError(f"{len(failed)} of {len(files)} files could not be measured: {reasons}", failed[0].hint)


def _json(file: str, found: Measurement, difference: dict[str, float | None] | None) -> str:
    import json

    values: dict[str, Any] = {"file": file, **found.as_dict()}
    if difference is not None:
        values["difference"] = difference
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _table(file: str, found: Measurement, difference: dict[str, float | None] | None, width: int) -> str:
    register = f"{found.register} ({found.confidence:.2f})"
    cells = [_cell(getattr(found, key), size, form) for key, size, form in _COLUMNS.values()]
    lines = [f"{file:{width}}  {register:{_REGISTER}}{''.join(cells)}"]
    strip = strip_of(found.by_second)
    lines.append(f"{'':{width}}  {strip:{_REGISTER}}  {found.rests_on}")
    lines += [f"{'':{width}}  {note}" for note in found.notes]
    if difference is not None:
        cells = [_cell(difference[key], size, "+" + form) for key, size, form in _COLUMNS.values()]
        lines.append(f"{'vs reference':{width}}  {'':{_REGISTER}}{''.join(cells)}")
    return "\n".join(lines)


def strip_of(by_second: Sequence[str]) -> str:
    """A letter a second; of longer clips a letter for equally many seconds each, and for how many."""
    many = -(-len(by_second) // _STRIP)
    if many <= 1:
        return "".join(_LETTERS[name] for name in by_second)
    pieces = [list(by_second[at : at + many]) for at in range(0, len(by_second), many)]
    # speech shows among pauses
    voiced = [[name for name in piece if name != "no speech"] or piece for piece in pieces]
    return "".join(_LETTERS[max(piece, key=piece.count)] for piece in voiced) + f" ({many} s each)"


def _cell(value: float | None, size: int, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>{size}}"


def _check_picture(picture: str, overwrite: bool) -> None:
    """Before the work is done."""
    from mlx_ltxw.errors import UserError
    from mlx_ltxw.files import check_writable

    if Path(picture).suffix.lower() != ".png":
        raise UserError(f"A picture cannot be written to {picture}.", "Give --picture a name that ends in .png.")
    if Path(picture).exists() and not overwrite:
        raise UserError(f"{picture} exists already.", "Give another name, or --overwrite.")
    check_writable(Path(picture))


def _draw(found: dict[str, Measurement], picture: str) -> None:
    from mlx_ltxw.media.containers import probe
    from mlx_ltxw.media.drawing import write_pictures
    from mlx_ltxw.media.spectrogram import spectrogram_of, top_of

    longest = max(one.duration for one in found.values())
    top = max(top_of(probe(file).rate or 48000) for file in found)
    panels = []
    for file, one in found.items():
        title = (
            f"{Path(file).name}: {one.register} ({one.confidence:.2f}), {one.lufs:.1f} LUFS, {one.voiced:.0%} voiced"
        )
        letters = "".join(_LETTERS[name] for name in one.by_second)
        panels.append(spectrogram_of(file, longest, top, title, letters))
    write_pictures(picture, panels)
