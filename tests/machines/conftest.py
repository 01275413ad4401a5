"""The command in this process, and a second model."""

import shutil

import pytest

from tests.cli.conftest import cli  # noqa: F401


@pytest.fixture
def make_other(tmp_path):
    """Copies a model directory with another manifest, so that it is another model."""

    def make(model):
        copy = shutil.copytree(model.path, tmp_path / "other")
        manifest = copy / "manifest.json"
        manifest.write_text(manifest.read_text() + "\n")
        return copy

    return make
