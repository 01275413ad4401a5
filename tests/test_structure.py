"""The rooms: who may import whom, what the package lists, and what a command loads before it is asked to work."""

import ast
import contextlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import structure

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mlx_ltxw"


def test_arrows_go_down():
    assert not structure.wrong_arrows(ROOT)


def test_every_permitted_arrow_is_used():
    assert not structure.idle_arrows(ROOT)


def test_the_table_only_goes_down():
    floor = structure.DOWNWARDS.index
    assert all(floor(room) < floor(below) for room, rooms in structure.MAY_IMPORT.items() for below in rooms)
    known = {*structure.DOWNWARDS, *structure.OPEN_TO_ALL}
    assert {structure.room_of(ROOT, path) for path in structure.python_files(ROOT, "mlx_ltxw", "convert")} <= known


def test_convert_is_imported_by_its_installed_name():
    assert not structure.top_level_convert(ROOT)


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("models", {"mlx", "numpy", "mlx_lm", "tokenizers"}),
        ("media", {"numpy", "av", "soundfile", "PIL", "pillow_heif"}),
        ("prompts", {"numpy", "yaml"}),
    ],
)
def test_third_parties(room, allowed):
    allowed = allowed | set(sys.stdlib_module_names) | {"mlx_ltxw"}
    found = [each for path in structure.python_files(ROOT, f"mlx_ltxw/{room}") for each in structure.read(ROOT, path)]
    assert not [str(each) for each in found if each.name.split(".")[0] not in allowed]
    text = [each for each in found if each.name.split(".")[0] in ("mlx_lm", "tokenizers")]
    assert not [str(each) for each in text if "text" not in each.file.parts]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package's sources elsewhere."""
    root = tmp_path_factory.mktemp("copy")
    only_python = shutil.ignore_patterns("builtin", "__pycache__", "[!_]*.txt", "*.safetensors")
    for folder in ("mlx_ltxw", "convert", "scripts"):
        shutil.copytree(ROOT / folder, root / folder, ignore=only_python)
    return root


PLANTED = {
    "plain": ("mlx_ltxw/media/audio.py", "import mlx_ltxw.pipeline.run"),
    "from the package": ("mlx_ltxw/media/audio.py", "from mlx_ltxw import pipeline as lower"),
    "in a function": ("mlx_ltxw/models/config.py", "def late():\n    from mlx_ltxw.weights import names"),
    "relative": ("mlx_ltxw/models/config.py", "from ..pipeline import run"),
    "relative, the room alone": ("mlx_ltxw/models/config.py", "from .. import train"),
    "relative, from a room's face": ("mlx_ltxw/weights/__init__.py", "from ..pipeline.run import run"),
    "relative, two floors": ("mlx_ltxw/models/video_vae/conv.py", "from ...pipeline import run"),
    "relative, out of convert": ("convert/plan.py", "from ..pipeline import run"),
    "ground floor": ("mlx_ltxw/errors.py", "from .media import audio"),
    "import_module": ("mlx_ltxw/media/audio.py", "import importlib\nimportlib.import_module('mlx_ltxw.pipeline.run')"),
    "import_module, relative": (
        "mlx_ltxw/media/audio.py", "from importlib import import_module\nimport_module('..train', __package__)",
    ),
    "import_module, by keyword": (
        "mlx_ltxw/media/audio.py", "import importlib\nimportlib.import_module(name='.train', package='mlx_ltxw')",
    ),
    "__import__": ("mlx_ltxw/models/config.py", "run = __import__('mlx_ltxw.pipeline.run')"),
    "find_spec": ("mlx_ltxw/models/config.py", "import importlib.util\nimportlib.util.find_spec('mlx_ltxw.train')"),
    "f-string": ("mlx_ltxw/models/config.py", "HOME = 'mlx_ltxw'\nrun = __import__(f'{HOME}.train')"),
    "sum of strings": ("mlx_ltxw/models/config.py", "WHERE = 'mlx_ltxw' + '.train'"),
    "joined strings": ("mlx_ltxw/models/config.py", "WHERE = '.'.join(['mlx_ltxw', 'train', 'loop'])"),
    "a table of names": ("mlx_ltxw/media/audio.py", "LATER = {'run': ('mlx_ltxw.pipeline.run', 'run')}"),
    "a name that is made later": ("mlx_ltxw/media/audio.py", "def get(room):\n    __import__(f'mlx_ltxw.{room}')"),
    "attribute": ("mlx_ltxw/media/audio.py", "import mlx_ltxw\nrun = mlx_ltxw.pipeline"),
    "getattr": ("mlx_ltxw/media/audio.py", "import mlx_ltxw as whole\nrun = getattr(whole, 'pipeline')"),
    "the package's face": ("mlx_ltxw/media/audio.py", "from mlx_ltxw import load"),
    "scripts": ("mlx_ltxw/media/audio.py", "from scripts import made_file"),
    "top-level convert": ("mlx_ltxw/cli/convert.py", "from convert import run"),
}  # fmt: skip


@contextlib.contextmanager
def planted(path, code):
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{code}\n")
    yield
    path.unlink() if before is None else path.write_text(before)


@pytest.mark.parametrize(("file", "code"), PLANTED.values(), ids=PLANTED)
def test_a_planted_arrow_is_seen(copy, file, code):
    with planted(copy / file, code):
        (line,) = structure.wrong_arrows(copy)
    assert line.startswith(f"{file}:")
    assert not structure.wrong_arrows(copy)


@pytest.mark.parametrize(
    "code",
    [
        "import convert",
        "import convert.quantize as q",
        "from convert.quantize import Quantization",
        "def late():\n    from convert import run",
        "import importlib\nimportlib.import_module('convert.run')",
        "run = __import__('convert')",
    ],
)
def test_a_planted_import_of_convert_is_seen(copy, code):
    with planted(copy / "scripts/measure_conversion.py", code):
        assert len(structure.top_level_convert(copy)) == 1
    with planted(copy / "scripts/measure_conversion.py", "from mlx_ltxw.convert import run"):
        assert not structure.top_level_convert(copy)


def test_an_idle_arrow_is_told(monkeypatch):
    """A room that is not built yet owes nothing."""
    more = {"media": {"models"}, "cli": structure.MAY_IMPORT["cli"] | {"studio"}}
    monkeypatch.setattr(structure, "MAY_IMPORT", structure.MAY_IMPORT | more)
    monkeypatch.setattr(structure, "_rooms", lambda _: {*structure.DOWNWARDS, "convert"} - {"studio", "takes"})
    assert structure.idle_arrows(ROOT) == ["media may import models, and does not"]


def test_package_list_names_every_folder():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in PACKAGE.rglob("__init__.py")
        if any(source.stat().st_size for source in path.parent.glob("*.py"))
    }
    assert listed == folders | {"mlx_ltxw.convert"}


def test_help_is_light():
    """`mlx-ltxw -h` loads none of the heavy packages."""
    code = (
        "import sys\n"
        "from mlx_ltxw.cli import group\n"
        "group.main(['-h'], standalone_mode=False)\n"
        "heavy = {'mlx.core', 'mlx_lm', 'transformers', 'av', 'matplotlib', 'numpy', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout


def test_functions_stay_readable():
    """No function over 80 lines, no file over 400."""
    long = []
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "convert").glob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 80:
                long.append(f"{path.relative_to(ROOT)}:{node.name}")
    assert not long
