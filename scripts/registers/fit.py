"""Fits the models of `mlx_ltxw.media.fitted` to known sounds and prints how they do on speakers they never heard.

    python -m scripts.registers.fit [--size 0.3] [--cache FOLDER]

Needs espeak-ng, pyworld, and Debian's asterisk-core-sounds-{en,es,fr,it,ru}-{wav,g722} and asterisk-moh-opsound-wav.
"""

from __future__ import annotations

import argparse
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize

from mlx_ltxw.media.pitch import track
from mlx_ltxw.media.registers import effort_figures
from mlx_ltxw.media.speechlike import NAMES, figures, windows
from scripts.registers.material import Item, make_all

EFFORT_NAMES = ("ratio", "slope", "first", "breath", "noise", "pitch")
Fitted = tuple[np.ndarray, np.ndarray, np.ndarray, float]
OUT = Path(__file__).parents[2] / "mlx_ltxw" / "media" / "fitted.py"
SILENT = ("noise", "music")


def logistic(x: np.ndarray, y: np.ndarray, weight: np.ndarray, decay: float) -> tuple[np.ndarray, float]:
    """Weights (F,) and bias of the ridge logistic regression of y (N,) in {0, 1} on x (N, F)."""

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ w[:-1] + w[-1]
        p = 1 / (1 + np.exp(-z))
        value = (weight * (np.logaddexp(0, z) - y * z)).sum() + decay * (w[:-1] ** 2).sum() / 2
        error = weight * (p - y)
        return value, np.r_[x.T @ error + decay * w[:-1], error.sum()]

    found = scipy.optimize.minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B")
    return found.x[:-1], float(found.x[-1])


def scaled(x: np.ndarray, y: np.ndarray, weight: np.ndarray, decay: float) -> Fitted:
    """Centre, scale, weights and bias."""
    centre, scale = x.mean(axis=0), x.std(axis=0) + 1e-9
    weights, bias = logistic(((x - centre) / scale).clip(-4, 4), y, weight, decay)
    return centre, scale, weights, bias


def apply(model: Fitted, x: np.ndarray) -> np.ndarray:
    centre, scale, weights, bias = model
    return ((x - centre) / scale).clip(-4, 4) @ weights + bias


def figures_of(items: list[Item]) -> list[tuple[Item, np.ndarray]]:
    """Each item with the figures (W, F) of its windows, those without any left out."""
    found = []
    for item in items:
        pitch = track(item.frames)
        rows = [figures(item.frames, pitch, window) for window in (*windows(item.frames), *_short(item))]
        kept = [row for row in rows if row is not None]
        if kept:
            found.append((item, np.array(kept)))
    return found


def _short(item: Item) -> list[slice]:
    """Two parts of a clip as short as one word."""
    count = len(item.frames.level)
    draw = np.random.default_rng(count)
    sizes = draw.integers(50, 120, 2)
    return [slice(start := int(draw.integers(0, max(1, count - size))), start + int(size)) for size in sizes]


def efforts_of(items: list[Item]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effort figures (N, 6) of voices, whether they are soft, and a number for each speaker."""
    rows, soft, speakers = [], [], []
    names = sorted({(item.source, item.detail * (item.source == "recorded")) for item in items})
    for item in items:
        if item.kind in ("normal", "soft"):
            pitch = track(item.frames)
            found = effort_figures(item.frames, pitch, pitch.voiced)
            if found is not None:
                rows.append(found)
                soft.append(item.kind == "soft")
                speakers.append(names.index((item.source, item.detail * (item.source == "recorded"))))
    return np.array(rows), np.array(soft, float), np.array(speakers)


def fit_effort(rows: np.ndarray, soft: np.ndarray, speakers: np.ndarray) -> Fitted:
    """Calibrated on speakers that were left out of the fit one by one, where one voice of five is soft."""
    even = np.where(soft > 0, len(soft) / 2 / soft.sum(), len(soft) / 2 / (1 - soft).sum())
    told = np.zeros(len(soft))
    for speaker in np.unique(speakers):
        out = speakers == speaker
        told[out] = apply(scaled(rows[~out], soft[~out], even[~out], 3.0), rows[out])
    slope, offset = logistic(told[:, None], soft, np.where(soft > 0, 0.4, 1.6) * even, 0.1)
    centre, scale, weights, bias = scaled(rows, soft, even, 3.0)
    print(f"effort: odds times {slope[0]:.2f} {offset:+.2f}")
    return centre, scale, weights * slope[0], bias * slope[0] + offset


def reliability(logit: np.ndarray, right: np.ndarray) -> str:
    """Prints confidence against accuracy in bins -> a line with the accuracy and the expected calibration error."""
    error, chance = 0.0, 1 / (1 + np.exp(-np.abs(logit)))
    edges = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.01)
    for low, high in pairwise(edges):
        held = (chance >= low) & (chance < high)
        if held.any():
            said, true = chance[held].mean(), right[held].mean()
            print(f"  {low:.2f} to {high:.2f}: {held.sum():4} said {said:.3f}, right {true:.3f}")
            error += held.mean() * abs(said - true)
    return f"held out: {len(right)} clips, right {right.mean():.3f}, ECE {error:.3f}"


def fit(items: list[Item], held_out: list[Item]) -> dict[str, Any]:
    """The models, after printing what they do on what was held out."""
    seen, unseen = figures_of(items), figures_of(held_out)
    x = np.concatenate([rows for _, rows in seen])
    y = np.concatenate([np.full(len(rows), item.kind not in SILENT, float) for item, rows in seen])
    weight = np.where(y > 0, len(y) / 2 / y.sum(), len(y) / 2 / (1 - y).sum())
    speech = scaled(x, y, weight, 10.0)
    logits = [apply(speech, rows) for _, rows in seen]
    top = np.array([np.sort(z)[-max(1, -(-len(z) // 4)) :].mean() for z in logits])
    clips = np.array([item.kind not in SILENT for item, _ in seen], float)
    even = np.where(clips > 0, len(clips) / 2 / clips.sum(), len(clips) / 2 / (1 - clips).sum())
    slope, offset = logistic(top[:, None], clips, even, 1.0)
    print(f"windows: {len(y)}, of the fitted right {((apply(speech, x) > 0) == (y > 0)).mean():.3f}")
    for name, w in sorted(zip(NAMES, speech[2], strict=True), key=lambda pair: -abs(pair[1])):
        print(f"  {name:16} {w:+.2f}")
    scores = np.array(
        [slope[0] * np.sort(apply(speech, r))[-max(1, -(-len(r) // 4)) :].mean() + offset for _, r in unseen]
    )
    truth = np.array([item.kind not in SILENT for item, _ in unseen])
    right = (scores > 0) == truth
    print(reliability(scores, right))
    for (item, _), z, ok in zip(unseen, scores, right, strict=True):
        if not ok:
            print(f"    wrong: {item.kind} {item.source} {item.detail} {item.rate} Hz, logit {z:+.1f}")
    effort = fit_effort(*efforts_of(items))
    rows, soft, _ = efforts_of(held_out)
    scores = apply(effort, rows)
    right = (scores > 0) == (soft > 0)
    print(reliability(scores, right))
    return {"SPEECH": speech, "CLIP": (float(slope[0]), offset), "EFFORT": effort}


HEADER = '''"""Logistic models fitted to known sounds by `python -m scripts.registers.fit`; not to be edited by hand."""

from mlx_ltxw.media.logistic import LogisticModel

'''


def write(models: dict[str, Any], path: Path = OUT) -> None:
    """The models as a Python module."""
    text = HEADER
    for name, figure_names in (("SPEECH", NAMES), ("EFFORT", EFFORT_NAMES)):
        *columns, bias = models[name]
        rows = zip(figure_names, *columns, strict=True)
        lines = [f'        "{key}": ({centre:.4g}, {scale:.4g}, {weight:.4g}),' for key, centre, scale, weight in rows]
        text += "\n".join([f"{name} = LogisticModel(", f"    {bias:.4g},", "    {", *lines, "    },", ")", ""])
    slope, offset = models["CLIP"]
    path.write_text(text + f"CLIP = ({slope:.4g}, {offset:.4g})\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=0.3)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/registers"))
    arguments = parser.parse_args()
    sets = []
    for part in ("fitted", "held-out"):
        path = arguments.cache / f"{part}-{arguments.size:g}.pickle"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(make_all(part, arguments.size)))
        sets.append(pickle.loads(path.read_bytes()))
    write(fit(*sets))


if __name__ == "__main__":
    main()
