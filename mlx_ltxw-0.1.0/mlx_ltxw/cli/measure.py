"""`mlx-ltxw measure`: loudness, voicing, timbre and the register of sound and video files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
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
    "s": ("duration", 7, ".2f"),
}


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file and line.")
@click.option("--reference", metavar="FILE", help="Also print each file's difference from this one.")
def measure(files: tuple[str, ...], as_json: bool, reference: str | None) -> None:
    """Measure the voice in sound or video files and tell the register it implies.

    Loudness and true peak after EBU R128; the voiced share of the speech, its median pitch, harmonics to noise,
    spectral tilt and centre, and syllables a second. Whispering is speech with little voicing; soft speech is voiced
    and below -23 LUFS. Files that cannot be read are named at the end (exit 2); the others are measured all the same.
    """
    from mlx_ltxw.errors import UserError
    from mlx_ltxw.media.measure import measure as measure_file

    base = measure_file(reference) if reference else None
    width = max(len(name) for name in (*files, "vs reference"))
    failed: list[UserError] = []
    if not as_json:
        headings = "".join(f"{name:>{size}}" for name, (_, size, _) in _COLUMNS.items())
        click.echo(f"{'file':{width}}  {'register':17}{headings}")
    for file in files:
        try:
            found = measure_file(file)
        except UserError as error:
            failed.append(error)
            continue
        difference = found.minus(base) if base else None
        click.echo(_json(file, found, difference) if as_json else _table(file, found, difference, width))
    if len(failed) == 1:
        raise failed[0]
    if failed:
        reasons = " ".join(error.message for error in failed)
        raise UserError(f"{len(failed)} of {len(files)} files could not be measured: {reasons}", failed[0].hint)


def _json(file: str, found: Measurement, difference: dict[str, float | None] | None) -> str:
    import json
    from dataclasses import asdict

    values: dict[str, Any] = {"file": file, **asdict(found)}
    if difference is not None:
        values["difference"] = difference
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _table(file: str, found: Measurement, difference: dict[str, float | None] | None, width: int) -> str:
    register = f"{found.register or 'no speech'} ({found.confidence:.2f})"
    cells = [_cell(getattr(found, key), size, form) for key, size, form in _COLUMNS.values()]
    lines = [f"{file:{width}}  {register:17}{''.join(cells)}"]
    if difference is not None:
        cells = [_cell(difference[key], size, "+" + form) for key, size, form in _COLUMNS.values()]
        lines.append(f"{'vs reference':{width}}  {'':17}{''.join(cells)}")
    return "\n".join(lines)


def _cell(value: float | None, size: int, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>{size}}"
