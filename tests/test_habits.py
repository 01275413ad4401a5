"""Habits of the code that a reader relies on: a class has a name of its own, and a function fits on a screen."""

import ast
from collections import defaultdict

import pytest

from tests.convert.made import ROOT
from tests.structure import python_files

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


def test_a_class_has_a_name_of_its_own():
    """Two `Step`s in two rooms are one word for two things; a reader must not have to ask which."""
    assert named_twice(ROOT) == {}


def test_no_function_is_longer_than_a_screen():
    assert too_long(ROOT) == []


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
