"""Makes what `mlx-ltxw doctor` compares a run of the built-in model with; again when that model changes.

    python -m scripts.doctor_figures

On the CPU in float32, into `mlx_ltxw/doctor/expected.json`. On a GPU `--compare` prints the errors of each dtype
instead, from which the tolerances in `mlx_ltxw/doctor/self_test.py` were chosen.
"""

from __future__ import annotations

import json

import mlx_ltxw.blas  # noqa: F401  # before MLX

# isort: split
import click
import mlx.core as mx

from mlx_ltxw.doctor.self_test import EXPECTED, TOLERANCES, _error, measured


@click.command()
@click.option("--compare", is_flag=True, help="Print errors on this machine's own device, and write nothing.")
def main(compare: bool) -> None:
    if compare:
        expected = json.loads(EXPECTED.read_text())
        for dtype in TOLERANCES:
            click.echo(f"{dtype}: { ({name: _error(made, expected[name]) for name, made in measured(dtype).items()}) }")
        return
    mx.set_default_device(mx.cpu)
    figures = {name: [float(f"{value:.7g}") for value in values] for name, values in measured("float32").items()}
    EXPECTED.write_text(json.dumps(figures, indent=1) + "\n")
    click.echo(EXPECTED)


if __name__ == "__main__":
    main()
