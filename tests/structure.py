"""Reads who imports whom: every way of naming a module that can be read without running the code."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "mlx_ltxw"
UNREADABLE = "*"
"""Stands for the part of a string that only running the code would tell."""

OPEN_TO_ALL = {
    "errors", "files", "hub", "hub_errors", "links", "machine", "parsing", "paths", "printing", "world", "tree", "blas",
    "cuda_graphs", "heap", "tf32", "gpu_errors", "cache_folder", "scratch", "waiting",
}  # fmt: skip
"""The ground floor. What lies there imports only what lies there."""

FACE = {"__version__", "OPENBLAS"}
"""What rooms may take from the package itself; all else that it offers comes from the top floor."""

TOP = ("__main__", "__init__", "api")
DOWNWARDS = (
    *TOP, "cli", "doctor", "studio", "machines", "train", "takes", "pipeline", "prompts", "adapter", "convert",
    "weights", "models", "media",
)  # fmt: skip
"""Every room, top floor first: arrows only go down. A run of training previews itself in takes, so these lie below."""

MAY_IMPORT = {
    "cli": {"machines", "pipeline", "train", "convert", "media", "weights", "prompts", "takes", "doctor", "studio"},
    "doctor": {"takes", "pipeline", "convert", "weights"},
    "studio": {"train", "takes", "pipeline", "adapter", "weights", "media", "prompts"},
    "machines": {"takes", "pipeline", "weights", "media"},
    "train": {"takes", "pipeline", "adapter", "models", "weights", "media", "prompts"},
    "takes": {"pipeline", "adapter", "weights", "media", "prompts"},
    "pipeline": {"adapter", "models", "weights", "prompts"},
    "convert": {"models", "weights"},
    "weights": {"models"},
    "adapter": {"models", "weights"},
    "models": set(),
    "prompts": set(),
    "media": set(),
}
"""The arrows that are used. Each room may import itself and these; the top floor may import all that lies below it."""


@dataclass(frozen=True)
class Import:
    """One name that a file imports.

    Attributes:
        file: From the root.
        line: Where.
        name: Absolute and dotted; `*` for what cannot be read.
    """

    file: Path
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


def python_files(root: Path, *folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def module_of(root: Path, path: Path) -> str:
    """The dotted name a file is imported by: `convert/` is installed as `mlx_ltxw.convert`."""
    parts = [*path.relative_to(root).with_suffix("").parts]
    parts = [PACKAGE, *parts] if parts[0] == "convert" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(root: Path, path: Path) -> str:
    """The room a file of the package lies in: its folder, or its own name on the ground and top floors."""
    parts = path.relative_to(root).with_suffix("").parts
    return parts[0] if parts[0] == "convert" else parts[1]


def read(root: Path, path: Path) -> list[Import]:
    """All that a file imports, at any depth of it, and all strings in it that name a module of the package."""
    own = module_of(root, path)
    package = own if path.name == "__init__.py" else own.rpartition(".")[0]
    return [Import(path.relative_to(root), line, name) for line, name in _scan(package, path.read_text())]


@functools.cache
def _scan(package: str, text: str) -> list[tuple[int, str]]:
    tree = ast.parse(text)
    reader = _Reader(package, _constants(tree), _aliases(tree))
    return sorted({(node.lineno, name) for node in ast.walk(tree) for name in reader.names(node)})


def wrong_arrows(root: Path) -> list[str]:
    """What a file of the package imports and may not."""
    rooms = _rooms(root)
    result = []
    for path in python_files(root, PACKAGE, "convert"):
        room = room_of(root, path)
        allowed = _allowed(room)
        for found in read(root, path):
            first, _, rest = found.name.partition(".")
            if first in ("convert", "scripts", "tests", "examples"):
                result.append(f"{found}: the package imports nothing that lies outside of it")
            elif first == PACKAGE and rest:
                target = rest.split(".")[0]
                if target not in allowed and not (target in FACE and target not in rooms):
                    result.append(f"{found}: {room} may import {', '.join(sorted(allowed)) or 'nothing'}")
    return result


def idle_arrows(root: Path) -> list[str]:
    """Arrows that are permitted between rooms that are there, and that no file uses."""
    rooms = _rooms(root)
    used: set[tuple[str, str]] = set()
    for path in python_files(root, PACKAGE, "convert"):
        room = room_of(root, path)
        used |= {(room, found.name.split(".")[1]) for found in read(root, path) if found.name.startswith(f"{PACKAGE}.")}
    permitted = {(room, target) for room, targets in MAY_IMPORT.items() for target in targets}
    idle = {(a, b) for a, b in permitted - used if {a, b} <= rooms}
    return sorted(f"{a} may import {b}, and does not" for a, b in idle)


def top_level_convert(root: Path) -> list[str]:
    """Imports of `convert` by the name that only a checkout has; installed, it is `mlx_ltxw.convert`."""
    files = python_files(root, "scripts", "tests", "examples", PACKAGE, "convert")
    files = [path for path in files if "convert" in path.read_text()]
    return [str(found) for path in files for found in read(root, path) if found.name.split(".")[0] == "convert"]


def _rooms(root: Path) -> set[str]:
    inside = {
        path.stem for path in (root / PACKAGE).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    return inside | {"convert"}


def _allowed(room: str) -> set[str]:
    if room in OPEN_TO_ALL:
        return OPEN_TO_ALL
    if room in TOP:
        return {room, *DOWNWARDS[DOWNWARDS.index(room) :]} | OPEN_TO_ALL
    return MAY_IMPORT.get(room, set()) | OPEN_TO_ALL | {room}


def _constants(tree: ast.Module) -> dict[str, str]:
    """Module-level names that stand for one string."""
    result = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                result[name] = text
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(text))):
                result[name] = text
    return result


def _aliases(tree: ast.Module) -> set[str]:
    """Names that the package itself is bound to."""
    result = set()
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.Import) else []:
            if alias.name == PACKAGE or (alias.name.startswith(f"{PACKAGE}.") and not alias.asname):
                result.add(alias.asname or PACKAGE)
    return result


@dataclass(frozen=True)
class _Reader:
    package: str
    constants: dict[str, str]
    aliases: set[str]

    def names(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = self._absolute(node.level, node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in self.aliases:
            yield f"{PACKAGE}.{node.attr}"
        elif isinstance(node, ast.Call):
            yield from self._call(node)
        elif isinstance(node, ast.expr):
            text = self._text(node)
            if re.fullmatch(rf"{PACKAGE}(\.[\w*]+)+\.?", text):
                yield text

    def _call(self, node: ast.Call) -> Iterator[str]:
        """`import_module`, `find_spec`, `__import__`, `resolve_name`, and `getattr` of the package."""
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        texts = [self._text(each) for each in given]
        if name in ("import_module", "find_spec", "__import__", "resolve_name", "run_module") and texts:
            level = len(texts[0]) - len(texts[0].lstrip("."))
            base = texts[1] if level and len(texts) > 1 else self.package
            base = base if base.startswith(PACKAGE) else self.package
            yield self._absolute(level, texts[0].lstrip("."), base) if level else texts[0]
        elif name == "getattr" and len(given) > 1 and isinstance(given[0], ast.Name) and given[0].id in self.aliases:
            yield f"{PACKAGE}.{texts[1]}"
        elif self._text(node).startswith(f"{PACKAGE}."):
            yield self._text(node)

    def _absolute(self, level: int, name: str, package: str = "") -> str:
        if level == 0:
            return name
        parents = (package or self.package).split(".")
        return ".".join([*parents[: len(parents) - level + 1], *filter(None, [name])])

    def _text(self, node: ast.AST) -> str:
        """A string as far as it can be read; `*` for the rest."""
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.Name(id=name):
                return self.constants.get(name, UNREADABLE)
            case ast.FormattedValue(value=value):
                return self._text(value)
            case ast.JoinedStr(values=parts):
                return "".join(map(self._text, parts))
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self._text(left) + self._text(right)
            case ast.BinOp(op=ast.Mod(), left=left):
                return re.sub(r"%\w", UNREADABLE, self._text(left))
            case ast.Call(func=ast.Attribute(value=glue, attr="join"), args=[ast.List() | ast.Tuple() as given]):
                return self._text(glue).join(map(self._text, given.elts))
            case ast.Call(func=ast.Attribute(value=text, attr="format")):
                return re.sub(r"{\w*}", UNREADABLE, self._text(text))
        return UNREADABLE
