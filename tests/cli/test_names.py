"""An option that names a file, folder or repository: an empty one is refused, and is not the current folder."""

import importlib

import click
import pytest
from click.testing import CliRunner

from mlx_ltxw.cli import COMMANDS
from mlx_ltxw.cli.fields import FileName


def named():
    """Command, name of the parameter, and the words that give it an empty value."""
    for name in COMMANDS:
        command = getattr(importlib.import_module(f"mlx_ltxw.cli.{name}"), name)
        for parameter in command.params:
            if isinstance(parameter.type, FileName):
                words = [""] if isinstance(parameter, click.Argument) else [f"{max(parameter.opts, key=len)}="]
                yield pytest.param(command, words, id=f"{name}-{parameter.name}")


@pytest.mark.parametrize(("command", "words"), named())
def test_an_empty_name_is_refused(command, words):
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 2
    assert "It is empty. Name a file or folder, or leave it out." in done.output


def test_every_path_of_a_command_is_such_a_name():
    commands = [getattr(importlib.import_module(f"mlx_ltxw.cli.{name}"), name) for name in COMMANDS]
    paths = [one for command in commands for one in command.params if isinstance(one.type, click.Path)]
    assert len(paths) > 20
    assert all(isinstance(one.type, FileName) for one in paths)
