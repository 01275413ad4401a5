"""`index.html` of a run folder: the samples of every step side by side, and the course of the loss; no script."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_ltxw.files import write_bytes
from mlx_ltxw.train.preview import Sample, all_samples, folder_of

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
table { border-collapse: collapse; }
th, td { border: 1px solid #ccc; padding: .5em; vertical-align: top; text-align: left; }
td.prompt { max-width: 18em; }
audio { width: 16em; display: block; }
img { width: 16em; display: block; }
svg { border: 1px solid #ccc; }
small { color: #666; }
"""
_WIDTH, _HEIGHT = 720, 200


def write_page(run: Path, title: str, metrics: Sequence[dict[str, Any]]) -> Path:
    """Writes the page of a run, whole or not at all.

    Args:
        run: Its folder.
        title: Of the page.
        metrics: Lines of `metrics.jsonl`.
    """
    samples = all_samples(run)
    steps = sorted({sample.step for sample in samples})
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    cells = {(sample.prompt, sample.step): sample for sample in samples}
    head = "".join(f"<th>{f'step {step}' if step else 'base model'}</th>" for step in steps)
    rows = "".join(
        f'<tr><td class="prompt">{html.escape(prompt)}</td>'
        + "".join(f"<td>{_cell(run, cells.get((prompt, step)))}</td>" for step in steps)
        + "</tr>\n"
        for prompt in prompts
    )
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>\n{_curve(metrics)}\n"
        f"<h2>Samples</h2>\n<table><tr><th>prompt</th>{head}</tr>\n{rows}</table>\n</body></html>\n"
    )
    path = run / "index.html"
    write_bytes(path, text.encode())
    return path


def _cell(run: Path, sample: Sample | None) -> str:
    if sample is None:
        return ""
    folder = folder_of(run, sample.step).relative_to(run).as_posix()
    return (
        f'<audio controls preload="none" src="{folder}/{sample.wav}"></audio>'
        f'<img src="{folder}/{sample.picture}" alt="spectrogram" loading="lazy">'
        f"<b>{sample.register or 'no speech'}</b> <small>{sample.lufs:.1f} LUFS, {sample.voiced:.0%} voiced</small>"
    )


def _curve(metrics: Sequence[dict[str, Any]]) -> str:
    """The audio loss over the steps, averaged over as many as fall on one point, as a drawing."""
    if not metrics:
        return "<p>No step yet.</p>"
    size = max(1, len(metrics) // 120)
    groups = [metrics[i : i + size] for i in range(0, len(metrics), size)]
    points = [
        (sum(line["step"] for line in group) / len(group), sum(line["audio_loss"] for line in group) / len(group))
        for group in groups
    ]
    top, last = max(y for _, y in points) or 1.0, max(points[-1][0], 1)
    path = " ".join(f"{_WIDTH * x / last:.1f},{_HEIGHT * (1 - y / top):.1f}" for x, y in points)
    newest = metrics[-1]
    return (
        f"<p>Step {newest['step']}: audio loss {points[-1][1]:.4f} (mean of {len(groups[-1])}), "
        f"highest of the curve {top:.4f}.</p>\n"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="audio loss">'
        f'<polyline points="{path}" fill="none" stroke="#246" stroke-width="2"/></svg>'
    )
