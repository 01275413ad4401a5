"""Runs the command line in this process, as the entry point does."""

import dataclasses
import sys

import pytest

from mlx_ltxw.cli import main


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch, capsys):
    def call(*arguments) -> Done:
        monkeypatch.setattr(sys, "argv", ["mlx-ltxw", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return call
