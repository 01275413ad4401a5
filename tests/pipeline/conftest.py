"""The made checkpoint, converted as each of the two variants."""

import shutil

import pytest

from mlx_ltxw.convert.run import convert, prepare


@pytest.fixture(scope="session")
def dev(made_model):
    return made_model


@pytest.fixture(scope="session")
def distilled(made_checkpoint, made_gemma, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    renamed = shutil.copy(made_checkpoint, folder / "ltx-2.3-tiny-distilled.safetensors")
    return convert(prepare(str(renamed), str(made_gemma)), folder / "model")
