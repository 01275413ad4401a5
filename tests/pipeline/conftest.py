"""The made checkpoint, converted as each of the two variants."""

import shutil

import pytest

from mlx_ltxw.convert import face
from mlx_ltxw.convert.run import convert, prepare
from tests.reference import upsampler as official_upsampler


@pytest.fixture(scope="session")
def dev(made_model):
    return made_model


@pytest.fixture(scope="session")
def distilled(made_checkpoint, made_gemma, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    renamed = shutil.copy(made_checkpoint, folder / "ltx-2.3-tiny-distilled.safetensors")
    return convert(prepare(str(renamed), str(made_gemma)), folder / "model")


@pytest.fixture(scope="session")
def upsamplers(made_model, tmp_path_factory):
    """Files of random weights, with the official classes that have them."""
    folder, channels = tmp_path_factory.mktemp("upsamplers"), made_model.network_config("video_vae").latent_channels
    made = {}
    for kind, name in (("spatial-x2", "x2-1.1"), ("spatial-x1.5", "x1.5-1.0")):
        path = folder / f"ltx-2.3-spatial-upscaler-{name}.safetensors"
        made[kind] = path, official_upsampler.write_official(path, official_upsampler.config(kind, channels, 32))
    return made


def with_upsamplers(model, upsamplers, folder):
    copy = shutil.copytree(model.path, folder / "model")
    for path, _ in upsamplers.values():
        model = face.convert(path, copy)
    return model


@pytest.fixture(scope="session")
def two_dev(dev, upsamplers, tmp_path_factory):
    return with_upsamplers(dev, upsamplers, tmp_path_factory.mktemp("two_dev"))


@pytest.fixture(scope="session")
def two_distilled(distilled, upsamplers, tmp_path_factory):
    return with_upsamplers(distilled, upsamplers, tmp_path_factory.mktemp("two_distilled"))
