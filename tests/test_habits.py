"""Habits that a reader relies on: a class has a name of its own, a function fits on a screen, imports go one way."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.convert.made import ROOT
from tests.structure import module_of, python_files, read

LONGEST = 80
"""Lines of a function."""


def named_twice(root):
    """Classes and aliases of types that two files of the package define, with where; their names start large."""
    files = defaultdict(list)
    for path in python_files(root, "mlx_ltxw", "convert"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign) and not _is_type_variable(node.value):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            else:
                names = []
            for name in names:
                if name[0].isupper() and not name.isupper():
                    files[name].append(str(path.relative_to(root)))
    return {name: paths for name, paths in files.items() if len(paths) > 1}


def _is_type_variable(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "TypeVar"


def too_long(root):
    """`file:line name` of functions beyond the limit."""
    return [
        f"{path.relative_to(root)}:{node.lineno} {node.name}"
        for path in python_files(root, "mlx_ltxw", "convert", "scripts", "examples", "tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= LONGEST
    ]


def circle(root):
    """Modules that import one another round in a circle, in any way, also late or for types alone; packages' own
    files, which gather names, left aside."""
    files = {module_of(root, path): path for path in python_files(root, "mlx_ltxw", "convert")}
    modules = {name for name, path in files.items() if path.name != "__init__.py"}
    imports = {}
    for name in modules:
        found = {one.name for one in read(root, files[name])}
        targets = {target if target in files else target.rpartition(".")[0] for target in found}
        imports[name] = (targets & modules) - {name}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_a_class_has_a_name_of_its_own():
    """Two `Step`s in two rooms are one word for two things; a reader must not have to ask which."""
    assert named_twice(ROOT) == {}


def test_no_function_is_longer_than_a_screen():
    assert too_long(ROOT) == []


def test_no_modules_import_one_another():
    assert circle(ROOT) == []


def test_a_planted_circle_is_found(tmp_path):
    (tmp_path / "mlx_ltxw").mkdir()
    (tmp_path / "convert").mkdir()
    (tmp_path / "mlx_ltxw/a.py").write_text("def late():\n    from mlx_ltxw.b import x\n")
    (tmp_path / "mlx_ltxw/b.py").write_text("from mlx_ltxw import a\n")
    assert set(circle(tmp_path)) == {"mlx_ltxw.a", "mlx_ltxw.b"}


@pytest.fixture
def planted(tmp_path):
    (tmp_path / "mlx_ltxw").mkdir()
    (tmp_path / "convert").mkdir()
    (tmp_path / "mlx_ltxw/a.py").write_text("class Step:\n    pass\n\n\nEPS = 1\n")
    (tmp_path / "convert/b.py").write_text("Step = int\nEPS = 2\n\n\ndef long():\n" + "    pass\n" * LONGEST)
    return tmp_path


def test_faults_are_found(planted):
    assert named_twice(planted) == {"Step": ["convert/b.py", "mlx_ltxw/a.py"]}
    assert too_long(planted) == ["convert/b.py:5 long"]
