"""What of the process a test could leave changed for the next one."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

import mlx.core as mx

OURS = "MLX_"
"""What the names of MLX's variables and of this package's (`MLX_LTXW_`) begin with."""


@dataclass(frozen=True)
class State:
    """Settings of the whole process.

    Attributes:
        folder: The working directory; None where it is gone.
        environment: Variables of MLX and of this package.
        device: MLX's default device.
        compiles: Whether `mx.compile` compiles.
    """

    folder: str | None
    environment: dict[str, str]
    device: mx.Device
    compiles: bool

    @classmethod
    def now(cls) -> State:
        try:
            folder = os.getcwd()
        except FileNotFoundError:
            folder = None
        environment = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
        return cls(folder, environment, mx.default_device(), compiles())

    def changes(self, later: State) -> list[str]:
        """What is different later, one line each."""
        pairs = [(field.name, getattr(self, field.name), getattr(later, field.name)) for field in fields(self)]
        return [f"{name}: {before} became {after}" for name, before, after in pairs if before != after]

    def restore(self) -> None:
        os.chdir(self.folder or "/")
        for name in State.now().environment:
            del os.environ[name]
        os.environ.update(self.environment)
        mx.set_default_device(self.device)
        (mx.enable_compile if self.compiles else mx.disable_compile)()


def compiles() -> bool:
    """MLX does not tell: a compiled function is run in Python once, another one at every call."""
    runs = []
    function = mx.compile(lambda x: runs.append(x) or x)
    function(mx.array(0))
    function(mx.array(0))
    return len(runs) == 1
