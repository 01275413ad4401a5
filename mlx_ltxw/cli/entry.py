"""The group of commands, and what the shell is told when one ends."""

from __future__ import annotations

import importlib

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


def call() -> int:
    """Runs the command that the shell names.

    Returns:
        The exit code.
    """
    try:
        result = group.main(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except UserError as error:
        click.echo(f"Error: {error}", err=True)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except (RuntimeError, MemoryError) as error:
        told = explained(error)
        if told is None:
            raise
        click.echo(f"Error: {told.spelled(spelling(None))}", err=True)
        return 2
