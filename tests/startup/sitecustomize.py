"""Keeps a Python process on the CPU: with this folder on `PYTHONPATH`, MLX's default device is set as MLX is imported.

Tests start processes; on a Mac those would choose the GPU and bf16 by themselves. Nothing is imported before it is
asked for, so what a command loads stays as it is.
"""

import importlib.abc
import importlib.machinery
import sys


class _Pinned(importlib.abc.Loader):
    """MLX's own loader, and the CPU after it."""

    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        module.set_default_device(module.cpu)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "mlx.core":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Pinned(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
