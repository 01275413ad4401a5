"""Makes an LTX-2.3 checkpoint with random weights and a Gemma-3 directory to go with it, in the official formats.

    python scripts/make_checkpoint.py OUT --size tiny

writes `OUT/ltx-2.3-tiny-dev.safetensors` (official key names, `config` and `model_version` in the metadata, bf16 with
fp32 scale-shift tables, stored filters and STFT bases) and `OUT/gemma/`. `--size 22b --keys-only` writes the real
model's header over a hole in the file, which takes no space on the disk.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a file from any directory

from scripts.made_sizes import SIZES, configuration

# The parts of a split release, and the key prefixes each holds; connectors stay with the transformer.
PARTS = {
    "transformer": ("model.diffusion_model.",),
    "text-projection": ("text_embedding_projection.",),
    "video-vae": ("vae.",),
    "audio-vae": ("audio_vae.", "vocoder."),
}
LICENSE = "Random numbers: there is nothing to license."


class Made(NamedTuple):
    """What was written: the checkpoint's files (one, or one a part) and Gemma's directory."""

    files: list[Path]
    gemma: Path

    @property
    def checkpoint(self) -> Path:
        """The single file.

        Raises:
            ValueError: the checkpoint was split.
        """
        (file,) = self.files
        return file


def make(
    directory: Path,
    size: str = "tiny",
    *,
    variant: str = "dev",
    seed: int = 0,
    changes: dict[str, Any] | None = None,
    fp8: bool = False,
    split: bool = False,
    keys_only: bool = False,
) -> Made:
    """Writes a checkpoint and its Gemma directory.

    Args:
        directory: Is made if it is not there.
        size: `tiny` (3 MB), `small` (40 MB) or `22b` (46 GB).
        variant: `dev` or `distilled`; only the file's name tells, as in the official releases.
        seed: Of the weights.
        changes: Dotted path in the config -> value, e.g. `{"transformer.num_layers": 3, "gemma.hidden_size": 48}`.
        fp8: The linears of every block but the first are e4m3 with one scale a tensor.
        split: One file a part in place of the single file.
        keys_only: Headers only, the data is a hole of the right length.
    """
    from scripts.made_file import Entry, plan, write
    from scripts.made_gemma import make_gemma
    from scripts.made_weights import fp8_specs, fp8_tensors, tensor_specs, tensors

    config, gemma = configuration(size, changes)
    specs = tensor_specs(config, gemma)
    entries = {name: Entry(*spec) for name, spec in (fp8_specs(specs) if fp8 else specs).items()}
    metadata = {"config": json.dumps(config), "model_version": "2.3.0", "license": LICENSE}

    def made(prefixes: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        pairs = tensors(config, gemma, seed, prefixes)
        return fp8_tensors(pairs) if fp8 else pairs

    directory.mkdir(parents=True, exist_ok=True)
    stem = f"ltx-2.3-{size}-{variant}" + ("-fp8" if fp8 else "")
    files = []
    for part, prefixes in (PARTS if split else {"": ("",)}).items():
        layout = plan({name: entry for name, entry in entries.items() if name.startswith(prefixes)}, metadata)
        path = directory / f"{stem}{'-' if part else ''}{part}.safetensors"
        files.append(write(path, layout, None if keys_only else made(prefixes)))
    return Made(files, make_gemma(directory / "gemma", gemma, seed, keys_only=keys_only))


def parse_changes(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`("transformer.num_layers=3",)` -> `{"transformer.num_layers": 3}`; values are JSON."""
    changes = {}
    for pair in pairs:
        path, found, value = pair.partition("=")
        try:
            changes[path] = json.loads(value)
        except json.JSONDecodeError:
            found = ""
        if not found:
            raise click.BadParameter(f"'{pair}' is not PATH=JSON, such as transformer.num_layers=3", param_hint="--set")
    return changes


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--size", type=click.Choice(SIZES), default="tiny", help="tiny 3 MB, small 40 MB, 22b 46 GB.")
@click.option("--variant", type=click.Choice(["dev", "distilled"]), default="dev", help="Goes into the file's name.")
@click.option("--seed", type=int, default=0, help="Seed of the weights.")
@click.option("--set", "changes", multiple=True, metavar="PATH=JSON", help="Change the config, 'gemma.' for Gemma's.")
@click.option("--fp8", is_flag=True, help="Block linears in e4m3 with a scale a tensor.")
@click.option("--split", is_flag=True, help="One file a part.")
@click.option("--keys-only", is_flag=True, help="Header only: the data is a hole that takes no space on the disk.")
def main(
    directory: Path,
    size: str,
    variant: str,
    seed: int,
    changes: tuple[str, ...],
    fp8: bool,
    split: bool,
    keys_only: bool,
) -> None:
    """Makes an LTX-2.3 checkpoint with random weights, and its Gemma, in DIRECTORY."""
    try:
        result = make(
            directory,
            size,
            variant=variant,
            seed=seed,
            changes=parse_changes(changes),
            fp8=fp8,
            split=split,
            keys_only=keys_only,
        )
    except ValueError as error:
        raise click.UsageError(f"The configuration cannot be built: {error}.") from error
    for path in [*result.files, *sorted(result.gemma.iterdir())]:
        click.echo(f"{path.stat().st_size:>14,} {path}")


if __name__ == "__main__":
    main()
