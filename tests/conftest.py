"""Shared test settings. `mlx_ltxw.blas` comes first, so that OpenBLAS is loaded before MLX."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

import mlx_ltxw.blas  # noqa: F401
from mlx_ltxw.machine import settle

settle()

# Fresh random examples wherever a person runs the tests; the same ones each time in CI, so that it fails for a change.
hypothesis.settings.register_profile("repeatable", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def made_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made tiny checkpoint and its Gemma: `ltx-2.3-tiny-dev.safetensors` and `gemma/`. Read only."""
    from scripts.make_checkpoint import make  # loads torch and transformers

    directory = tmp_path_factory.mktemp("made")
    make(directory, "tiny")
    return directory


@pytest.fixture(scope="session")
def made_checkpoint(made_dir: Path) -> Path:
    """The made tiny checkpoint, one file in the official format."""
    return made_dir / "ltx-2.3-tiny-dev.safetensors"


@pytest.fixture(scope="session")
def made_gemma(made_dir: Path) -> Path:
    """The made tiny Gemma-3 directory, in the Hub's layout."""
    return made_dir / "gemma"
