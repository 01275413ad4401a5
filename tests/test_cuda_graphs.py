"""CUDA graphs are off unless somebody asks for them."""

import os
import subprocess
import sys

import pytest

from mlx_ltxw.cuda_graphs import VARIABLE


@pytest.mark.parametrize(("given", "seen"), [(None, "0"), ("1", "1")])
def test_variable(given, seen):
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {VARIABLE: given} if given else {}
    code = f"import os, mlx_ltxw.machine; mlx_ltxw.machine.settle(); print(os.environ['{VARIABLE}'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == seen
