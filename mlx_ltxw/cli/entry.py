"""The group of commands, and what the shell is told when one ends."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import click

from mlx_ltxw import __version__
from mlx_ltxw.cli import COMMANDS
from mlx_ltxw.cli.fields import spelling
from mlx_ltxw.errors import UserError
from mlx_ltxw.gpu_errors import explained


class LazyGroup(click.Group):
    """A group whose commands are imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"mlx_ltxw.cli.{name}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except UserError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            raise error.spelled(spelling(command)) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="mlx-ltxw")
def group() -> None:
    """LTX-2.3 video with sound, and adapters that whisper, in MLX.

    `mlx-ltxw generate "a woman in dim light, (woman, whispering): \\"close your eyes\\"" -o out.mp4`
    """


def call(stopped: Callable[[], bool]) -> int:
    """Runs the command that the shell names.

    Args:
        stopped: Whether the user has asked it to end: what fails then fails because of that, and is not told.

    Returns:
        The exit code.

    Raises:
        KeyboardInterrupt: The user has asked it to end.
    """
    try:
        result = group.main(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except (UserError, click.ClickException, RuntimeError, MemoryError, OSError) as error:
        if stopped():
            raise KeyboardInterrupt from error
        return _told(error)


def _told(error: Exception) -> int:
    """Prints an error for the user; its exit code. One that the user cannot mend is raised again."""
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    told = error if isinstance(error, UserError) else explained(error)
    if told is None:
        raise error
    click.echo(f"Error: {told if told is error else told.spelled(spelling(None))}", err=True)
    return 2
