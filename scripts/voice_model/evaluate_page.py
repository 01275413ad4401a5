"""`index.html` of an evaluation: the table, the gates, and every clip to see and hear; no script."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from mlx_ltxw.files import write_bytes
from scripts.voice_model.corpus import SENTENCES
from scripts.voice_model.evaluate_clips import Condition, Figures, Prompt
from scripts.voice_model.evaluate_table import COLUMNS, Clips, Gate, Row, cells

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
table { border-collapse: collapse; margin-bottom: 2em; }
th, td { border: 1px solid #ccc; padding: .4em; vertical-align: top; text-align: left; }
td.figure { text-align: right; font-variant-numeric: tabular-nums; }
td.prompt { max-width: 14em; }
video { width: 12em; display: block; }
small { color: #666; }
.fail { color: #a00; font-weight: bold; }
"""


def write_page(
    path: Path, title: str, rows: Sequence[Row], gates: Sequence[Gate], clips: dict[Condition, Clips],
    files: dict[tuple[Condition, Prompt], Path],
) -> None:  # fmt: skip
    """Writes the page, whole or not at all; `files` are the clips' mp4s, in folders below the page's own."""
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>\n{_table(rows)}\n"
        f"<h2>Gates</h2>\n<ul>\n{''.join(map(_gate, gates))}</ul>\n"
        f"<h2>Clips</h2>\n{_grid(path.parent, clips, files)}\n</body></html>\n"
    )
    write_bytes(path, text.encode())


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("condition", "gender", *COLUMNS))
    body = "".join(
        f"<tr><td>{html.escape(row.condition)}</td><td>{row.gender}</td>"
        + "".join(f'<td class="figure">{cell}</td>' for cell in cells(row))
        + "</tr>\n"
        for row in rows
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _gate(gate: Gate) -> str:
    return f'<li class="{"pass" if gate.passed else "fail"}">{html.escape(str(gate))}</li>\n'


def _grid(folder: Path, clips: dict[Condition, Clips], files: dict[tuple[Condition, Prompt], Path]) -> str:
    """One line a prompt, one column a condition."""
    head = "".join(f"<th>{html.escape(condition.name)}</th>" for condition in clips)
    found = {(condition, prompt): figures for condition, every in clips.items() for prompt, figures in every}
    body = ""
    for prompt in dict.fromkeys(prompt for _, prompt in found):
        line = "".join(
            f"<td>{_cell(folder, files[at], at[1], found[at])}</td>" for at in ((one, prompt) for one in clips)
        )
        body += f'<tr><td class="prompt">{html.escape(prompt.text("plain"))}</td>{line}</tr>\n'
    return f"<table><tr><th>prompt</th>{head}</tr>\n{body}</table>"


def _cell(folder: Path, file: Path, prompt: Prompt, figures: Figures) -> str:
    source = quote(file.relative_to(folder).as_posix())
    note = f"{figures.voiced:.0%} voiced, {figures.lufs:.1f} LUFS"
    other = f'<br>nearest: "{html.escape(SENTENCES[figures.sentence])}"' if figures.sentence != prompt.sentence else ""
    return f'<video controls preload="metadata" src="{source}"></video><small>{note}{other}</small>'
