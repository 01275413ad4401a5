"""Stage 9: the released model and adapters as users have them, through MLX and the project's own pipeline.

`python -m scripts.voice_model.evaluate --out DIR` makes clips, measures them, prints the table and the gates, and
writes `DIR/index.html` with every clip, `DIR/table.json` and the clips. A second run goes on from the clips that are
there, and must have as many BLAS threads (`OPENBLAS_NUM_THREADS`): other numbers round otherwise, and the pictures
under the lock would differ in their last bits. Needs espeak-ng, for the true clips that sentences are told apart by;
no PyTorch and no GPU.
Exit status: 1 if a gate fails.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.adapter.source import locate
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import write_bytes
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from scripts.voice_model.evaluate_clips import BASE, Condition, Figures, Prompt, Setup, figures_of, path_of, prompts
from scripts.voice_model.evaluate_page import write_page
from scripts.voice_model.evaluate_table import Clips, Gate, Row, gates_of, rows_of, table
from scripts.voice_model.true_clips import speak_missing

ADAPTERS = ("whisper", "whisper-mixed")
BASES = tuple(Condition(BASE, said) for said in ("plain", "whisper", "soft"))


def conditions(adapters: Sequence[str], only: Sequence[str]) -> list[Condition]:
    """The conditions asked for, after those of the base that they are compared with.

    Args:
        adapters: Names or files. Each is tried under the lock; those whose name does not end in `mixed` without it too.
        only: Subjects (`base`, an adapter's name) or conditions (`whisper-soft-unlocked`); all if there are none.

    Raises:
        UserError: an adapter that is not there, two of one name, or an unknown name in `only`.
    """
    every = list(BASES)
    if not only or any(name != BASE and name not in {base.name for base in BASES} for name in only):
        for adapter in adapters:
            every += _with_adapter(adapter)
    if len({condition.name for condition in every}) < len(every):
        raise UserError("Two adapters have the same name.", "Rename one of the files.")
    names = {name for condition in every for name in (condition.subject, condition.name)}
    if unknown := sorted(set(only) - names):
        raise UserError(f"There is no condition {', '.join(unknown)}.", f"Choose from {', '.join(sorted(names))}.")
    chosen = [one for one in every if not only or one.subject in only or one.name in only]
    said = {"plain", *(condition.said for condition in chosen)}
    return [*(base for base in BASES if base.said in said), *(one for one in chosen if one.subject != BASE)]


def _with_adapter(source: str) -> list[Condition]:
    located = locate(source, BUILTIN_ADAPTERS)
    name = re.sub(r"[^\w.-]+", "-", located.name)
    locked = [Condition(name, said, located.path) for said in ("whisper", "soft", "plain")]
    if name.endswith("mixed"):
        return locked
    return [*locked, *(Condition(name, said, located.path, locked=False) for said in ("whisper", "soft"))]


def evaluate(setup: Setup, chosen: Sequence[Condition], count: int) -> dict[Condition, Clips]:
    """Makes or finds `count` clips of every condition; tells its progress on stderr."""
    lines = prompts(count)
    wanted = {(prompt.voice, condition.compared) for condition in chosen for prompt in lines}
    speak_missing(setup.folder / "true", wanted)
    clips: dict[Condition, list[tuple[Prompt, Figures]]] = {condition: [] for condition in chosen}
    began, total = time.monotonic(), len(chosen) * count
    for done, (condition, prompt) in enumerate(((c, p) for c in chosen for p in lines), start=1):
        clips[condition].append((prompt, figures_of(setup, condition, prompt)))
        if prompt.number + 1 == count or done % 8 == 0:
            print(f"{done} of {total} clips, {time.monotonic() - began:.0f} s, {condition.name}", file=sys.stderr)
    return dict(clips)


def write_report(setup: Setup, clips: dict[Condition, Clips], rows: Sequence[Row], gates: Sequence[Gate]) -> None:
    """`table.json` and `index.html`."""
    report = {
        "model": setup.model.identity,
        "seed": setup.seed,
        "sizes": setup.sizes,
        "rows": [row.facts() for row in rows],
        "gates": [gate.facts() for gate in gates],
    }
    write_bytes(setup.folder / "table.json", json.dumps(report, indent=1, allow_nan=False).encode())
    files = {(one, prompt): path_of(setup, one, prompt) for one, every in clips.items() for prompt, _ in every}
    write_page(setup.folder / "index.html", f"Evaluation of {setup.model.path.name}", rows, gates, clips, files)


def run(arguments: argparse.Namespace) -> list[Gate]:
    """Everything that the command line asks for; returns the gates."""
    given = {name: getattr(arguments, name) for name in ("steps", "frames")}
    sizes = {name: value for name, value in given.items() if value is not None}
    if arguments.size is not None:
        sizes |= {"width": arguments.size, "height": arguments.size}
    chosen = conditions(arguments.adapter or ADAPTERS, arguments.only)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = ModelDir.open(arguments.model)
    setup = Setup(model, arguments.out, arguments.seed, sizes, arguments.measure_again)
    clips = evaluate(setup, chosen, arguments.count)
    rows = rows_of(clips)
    gates = gates_of(rows)
    write_report(setup, clips, rows, gates)
    if arguments.json:
        for row in rows:
            print(json.dumps(row.facts(), allow_nan=False))
    else:
        print(table(rows), *gates, sep="\n")
    return gates


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for clips, page and table")
    parser.add_argument("--model", type=Path, default=BUILTIN_MODEL, help="a converted model (the built-in one)")
    parser.add_argument("--adapter", action="append", metavar="NAME|FILE", help=f"repeatable ({', '.join(ADAPTERS)})")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="subject or condition; repeatable")
    parser.add_argument("--count", type=int, default=64, help="clips a condition (64)")
    parser.add_argument("--seed", type=int, default=7, help="of the first clip (7)")
    parser.add_argument("--steps", type=int, help="denoising steps (the model's own)")
    parser.add_argument("--frames", type=int, help="video frames (the model's own)")
    parser.add_argument("--size", type=int, help="width and height in pixels (the model's own)")
    parser.add_argument("--measure-again", action="store_true", help="measure kept clips anew")
    parser.add_argument("--json", action="store_true", help="print one object a row instead")
    try:
        gates = run(parser.parse_args(words))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0 if all(gate.passed for gate in gates) else 1


if __name__ == "__main__":
    sys.exit(main())
