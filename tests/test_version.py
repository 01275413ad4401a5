"""One version: what the source says is what a build, an installation and the command say."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import mlx_ltxw

ROOT = Path(__file__).parents[1]
BUILD = (
    "import os, sys\n"
    "from setuptools import build_meta\n"
    "for folder in ('meta', 'editable', 'sdist'):\n"
    "    os.mkdir(folder)\n"
    "wheel = build_meta.prepare_metadata_for_build_wheel('meta')\n"
    "editable = build_meta.prepare_metadata_for_build_editable('editable')\n"
    "sdist = build_meta.build_sdist('sdist')\n"
    "loaded = {'mlx', 'numpy', 'mlx_ltxw'} & set(sys.modules)\n"
    "print('\\n', wheel, editable, sdist, loaded or 'nothing')\n"
)


def versions(text):
    return [line.removeprefix("Version: ") for line in text.splitlines() if line.startswith("Version: ")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A checkout with another version, and without the built-in model's weights."""
    root = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    for name in ("mlx_ltxw", "convert"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    face = root / "mlx_ltxw/__init__.py"
    face.write_text(face.read_text().replace(f'"{mlx_ltxw.__version__}"', '"7.8.9"'))
    return root


def test_a_build_takes_it_from_the_source(sources):
    """Wheel, editable installation and sdist; reading it loads nothing, so a build needs no more than setuptools."""
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, cwd=sources)
    assert done.returncode == 0, done.stderr
    wheel, editable, sdist, loaded = done.stdout.splitlines()[-1].split()
    assert loaded == "nothing"
    assert versions((sources / "meta" / wheel / "METADATA").read_text()) == ["7.8.9"]
    assert versions((sources / "editable" / editable / "METADATA").read_text()) == ["7.8.9"]
    with tarfile.open(sources / "sdist" / sdist) as archive:
        names = [name for name in archive.getnames() if name.endswith("/PKG-INFO") and name.count("/") == 1]
        assert versions(archive.extractfile(names[0]).read().decode()) == ["7.8.9"]
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"convert/run.py", "mlx_ltxw/pipeline/run.py", "mlx_ltxw/py.typed", "pyproject.toml"} <= inside


def test_the_project_file_names_no_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]


def test_the_installed_one_is_the_source_s():
    try:
        installed = version("mlx-ltxw")
    except PackageNotFoundError:
        pytest.skip("not installed: run from the sources")
    assert installed == mlx_ltxw.__version__


def test_the_command_says_it():
    code = "from mlx_ltxw.cli import group; group.main(['--version'], standalone_mode=False)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split()[-1] == mlx_ltxw.__version__
