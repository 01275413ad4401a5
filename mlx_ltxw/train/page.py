"""`index.html` of a run folder: the course of the loss and of the register, and the samples side by side; no script."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError, spelled
from mlx_ltxw.files import read_text, write_bytes
from mlx_ltxw.media.measure import MIXED, NO_SPEECH, REGISTERS
from mlx_ltxw.parsing import parse_json
from mlx_ltxw.printing import counted
from mlx_ltxw.train.charts import COLOURS, Line, Point, chart, smoothed, thinned
from mlx_ltxw.train.config import TrainConfig, as_yaml
from mlx_ltxw.train.preview import Sample, all_samples, samples_folder

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
table { border-collapse: collapse; }
th, td { border: 1px solid #ccc; padding: .5em; vertical-align: top; text-align: left; }
.samples { overflow-x: auto; }
.samples th:first-child, .samples td:first-child { position: sticky; left: 0; background: #fff; max-width: 16em; }
audio { width: 30em; display: block; }
.samples img { width: 30em; display: block; }
svg { border: 1px solid #ccc; } svg text { font: 12px system-ui, sans-serif; fill: #444; }
.legend span { margin-right: 1.5em; }
.warnings { border-left: 4px solid #c80; padding-left: 1em; }
small { color: #666; }
"""
_LEVELS = (*REGISTERS, MIXED, NO_SPEECH)
_KEEP = 0.95  # of the running mean of the loss: about 20 steps
_MOST_WARNINGS = 20
_FILES = {"adapter.safetensors": "the adapter", "README.md": "its model card", "metrics.jsonl": "figures of each step",
          "config.yaml": "the options", "clips.jsonl": "the clips"}  # fmt: skip


def write_page(run: Path, config: TrainConfig, metrics: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the page of a run, whole or not at all.

    Args:
        run: Its folder.
        config: Its options.
        metrics: Lines of `metrics.jsonl`.
    """
    title = html.escape(run.resolve().name)
    samples = all_samples(run)
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style></head><body>\n<h1>{title}</h1>",
        _links(run), _data(run), _curve(metrics, config.steps), _registers(samples), _samples(run, samples),
        _options(config), "</body></html>",
    ]  # fmt: skip
    path = run / "index.html"
    write_bytes(path, ("\n".join(filter(None, parts)) + "\n").encode("utf-8", "backslashreplace"))
    return path


def _links(run: Path) -> str:
    there = [f'<a href="{name}">{text}</a>' for name, text in _FILES.items() if (run / name).is_file()]
    return f"<p>{', '.join(there)}</p>" if there else ""


def _data(run: Path) -> str:
    """What the data check said."""
    file = run / "data.json"
    if not file.is_file():
        return ""
    try:
        facts = parse_json(read_text(file), str(file))
        rows = [(str(one["file"] or "all clips"), str(one["text"])) for one in facts.get("findings", [])]
        figures = f"{counted(int(facts['clips']), 'clip')}, {float(facts['seconds']):.0f} s, "
        figures += counted(int(facts["voices"]), "voice")
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        return "<h2>Data</h2>\n<p>data.json cannot be read.</p>"
    items = "".join(
        f"<li><b>{html.escape(name)}</b>: {html.escape(spelled(text))}</li>" for name, text in rows[:_MOST_WARNINGS]
    )
    more = f"<li>and {len(rows) - _MOST_WARNINGS} more in data.json</li>" if len(rows) > _MOST_WARNINGS else ""
    warned = f'<div class="warnings"><b>Warnings</b><ul>{items}{more}</ul></div>' if rows else "<p>No warnings.</p>"
    return f"<h2>Data</h2>\n<p>{figures}.</p>\n{warned}"


def _curve(metrics: Sequence[Mapping[str, Any]], steps: int) -> str:
    """The audio loss over the steps: each step, its running mean, and the clips kept back."""
    points: list[Point] = [(line["step"], line["audio_loss"]) for line in metrics]
    if not points:
        return "<h2>Loss</h2>\n<p>No step yet.</p>"
    mean = smoothed(points, _KEEP)
    lines = [
        Line("each step", thinned(points), COLOURS[0], faint=True),
        Line("running mean (20 steps)", thinned(mean), COLOURS[0]),
    ]
    held_out = [(line["step"], line["held_out_loss"]) for line in metrics if "held_out_loss" in line]
    lines += [Line("clips kept back", held_out, COLOURS[1], dots=True)] if held_out else []
    summary = f"Step {metrics[-1]['step']} of {steps}: audio loss {mean[-1][1]:.4f} (running mean)"
    summary += f", {held_out[-1][1]:.4f} on the clips kept back" if held_out else ""
    drawn = chart(lines, "optimizer steps", "mean squared error of the velocity")
    return f"<h2>Loss</h2>\n<p>{summary}.</p>\n{drawn}"


def _registers(samples: Sequence[Sample]) -> str:
    """What the samples measure as, over the steps."""
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    lines = []
    for number, prompt in enumerate(prompts):
        points = [
            (float(s.step), _LEVELS.index(s.register) + 0.05 * number)  # beside each other where they agree
            for s in samples if s.prompt == prompt and s.register in _LEVELS
        ]  # fmt: skip
        if points:
            lines.append(Line(f"{number + 1}: {prompt}", points, COLOURS[number % len(COLOURS)], dots=True))
    if not lines:
        return ""
    drawn = chart(lines, "optimizer steps (0: the base model)", "measured register", _LEVELS)
    return f"<h2>Register of the samples</h2>\n{drawn}"


def _samples(run: Path, samples: Sequence[Sample]) -> str:
    steps = sorted({sample.step for sample in samples})
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    cells = {(sample.prompt, sample.step): sample for sample in samples}
    head = "".join(f"<th>{f'step {step}' if step else 'base model'}</th>" for step in steps)
    rows = "".join(
        f"<tr><td>{number}: {html.escape(prompt)}</td>"
        + "".join(f"<td>{_cell(run, cells.get((prompt, step)))}</td>" for step in steps)
        + "</tr>\n"
        for number, prompt in enumerate(prompts, start=1)
    )
    if not rows:
        return ""
    return (
        "<h2>Samples</h2>\n<p>All of a row come from the same noise: what differs is the adapter. A click on a "
        f'spectrogram shows it in full size.</p>\n<div class="samples"><table><tr><th>prompt</th>{head}</tr>\n'
        f"{rows}</table></div>"
    )


def _cell(run: Path, sample: Sample | None) -> str:
    if sample is None:
        return ""
    folder = samples_folder(run, sample.step).relative_to(run).as_posix()
    return (
        f'<audio controls preload="none" src="{folder}/{sample.wav}"></audio>'
        f'<a href="{folder}/{sample.picture}">'
        f'<img src="{folder}/{sample.picture}" alt="spectrogram" loading="lazy"></a>'
        f"<b>{html.escape(sample.register)}</b> <small>{sample.lufs:.1f} LUFS, {sample.voiced:.0%} voiced</small>"
    )


def _options(config: TrainConfig) -> str:
    rows = "".join(
        f"<tr><td>{option.name}</td><td>{html.escape(as_yaml(getattr(config, option.name)))}</td>"
        f"<td>{html.escape(option.metadata['help'])}</td></tr>\n"
        for options in TrainConfig.by_group().values()
        for option in options
    )
    return f"<h2>Options</h2>\n<table>\n{rows}</table>"
