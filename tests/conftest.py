"""Shared test settings: the device, and what a test may not leave behind.

Importing `mlx_ltxw.blas` first loads OpenBLAS before MLX. Tests run on the CPU in fp32 on every machine, and so do
the processes they start; `MLX_LTXW_TEST_DEVICE=gpu` leaves MLX's own choice.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

import mlx_ltxw.blas  # noqa: F401

# isort: split
import mlx.core as mx

from mlx_ltxw import machine
from mlx_ltxw.weights.model_dir import ModelDir
from tests.leaks import State

STARTUP = Path(__file__).parent / "startup"
if os.environ.get("MLX_LTXW_TEST_DEVICE") != "gpu":
    mx.set_default_device(mx.cpu)
    if mx.is_available(mx.gpu):
        os.environ["PYTHONPATH"] = os.pathsep.join([str(STARTUP), *filter(None, [os.environ.get("PYTHONPATH")])])
if "MLX_LTXW_CACHE" not in os.environ:
    # Nothing of the user's folder is read or written. One prompt's encoding is most of what a tiny clip takes: each is
    # kept for the session, whose processes and those they start find the folder named here.
    os.environ["MLX_LTXW_CACHE"] = tempfile.mkdtemp(prefix="mlx-ltxw-tests-")
    atexit.register(shutil.rmtree, os.environ["MLX_LTXW_CACHE"], ignore_errors=True)
if mx.default_device() == mx.Device(mx.cpu):
    mx.disable_compile()  # as every run on the CPU does
machine.settle()  # as every run does

# Fresh random examples wherever a person runs the tests; the same ones each time in CI, so that it fails for a change.
# `--hypothesis-profile=explore` draws many times as many (`tests/properties.py`).
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False, max_examples=3000, print_blob=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails a test that leaves the process changed, and puts it right for the next one.

    The limit of MLX's cache is put back without a word: every run in this process sets it. So is what a failed run
    leaves: errors of a device are acted here, and real ones happen in processes of their own.
    """
    before, limit = State.now(), mx.set_cache_limit(0)
    mx.set_cache_limit(limit)
    yield
    machine._GIVEN_UP.clear()
    mx.set_cache_limit(limit)
    changes = before.changes(State.now())
    if changes:
        before.restore()
        pytest.fail("left behind: " + "; ".join(changes))


@pytest.fixture(scope="session")
def made_dir() -> Path:
    """A made tiny checkpoint and its Gemma: `ltx-2.3-tiny-dev.safetensors` and `gemma/`. Read only."""
    from tests.convert.made import made

    return made().gemma.parent


@pytest.fixture(scope="session")
def made_checkpoint(made_dir: Path) -> Path:
    """The made tiny checkpoint, one file in the official format."""
    return made_dir / "ltx-2.3-tiny-dev.safetensors"


@pytest.fixture(scope="session")
def made_gemma(made_dir: Path) -> Path:
    """The made tiny Gemma-3 directory, in the Hub's layout."""
    return made_dir / "gemma"


@pytest.fixture(scope="session")
def made_model(made_checkpoint: Path, made_gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    """The made tiny checkpoint as a model directory. Read only."""
    from mlx_ltxw.convert.run import convert, prepare

    return convert(prepare(str(made_checkpoint), str(made_gemma)), tmp_path_factory.mktemp("made_model") / "model")
