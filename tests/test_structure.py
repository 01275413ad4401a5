"""The rooms: who may import whom, what the package lists, and what a command loads before it is asked to work."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mlx_ltxw"

OPEN_TO_ALL = {"blas", "errors", "files", "hub", "machine", "parsing", "printing", "tree", "world"}
MAY_IMPORT = {
    "cli": {"pipeline", "train", "convert", "media", "adapter", "weights", "prompts"},
    "train": {"pipeline", "adapter", "models", "weights", "media", "prompts"},
    "pipeline": {"adapter", "models", "weights", "prompts"},
    "convert": {"weights", "adapter", "models"},
    "weights": {"models"},
    "adapter": {"models", "weights"},
    "models": set(),
    "prompts": set(),
    "media": set(),
}
"""DESIGN's arrows: only down. Each room may import itself and these."""


def sources(room):
    folder = ROOT / "convert" if room == "convert" else PACKAGE / room
    return sorted(folder.rglob("*.py"))


def imports(path):
    """Top-level names of other packages, and rooms of this one, that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows_go_down(room):
    wrong = []
    for path in sources(room):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "mlx_ltxw" and len(parts) > 1:
                allowed = MAY_IMPORT[room] | OPEN_TO_ALL | {room, "__version__"}
                wrong += [f"{path.relative_to(ROOT)} imports {name}"] * (parts[1] not in allowed)
    assert not wrong


@pytest.mark.parametrize(
    ("room", "allowed"),
    [("models", {"mlx", "numpy", "mlx_lm", "tokenizers"}), ("media", {"numpy", "av", "soundfile"})],
)
def test_third_parties(room, allowed):
    allowed = allowed | set(sys.stdlib_module_names) | {"mlx_ltxw"}
    used = {(path.relative_to(ROOT), name.split(".")[0]) for path in sources(room) for name in imports(path)}
    assert not {pair for pair in used if pair[1] not in allowed}
    only_text = [p for p, name in used if name in ("mlx_lm", "tokenizers") and "text" not in p.parts]
    assert not only_text


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
