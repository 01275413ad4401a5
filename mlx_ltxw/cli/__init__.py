"""The command line, `mlx-ltxw COMMAND`: each command is a module of its name here, loaded when it is asked for."""

from __future__ import annotations

import importlib
import sys

import click

from mlx_ltxw import __version__
from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import settle

COMMANDS = {
    "convert": "Turn an official LTX-2.3 checkpoint into a model directory.",
    "generate": "Make a video with sound, or sound alone, from a prompt.",
    "train": "Train an adapter on clips.",
    "measure": "Loudness, voicing and vocal register of sound files.",
    "inspect": "Say what a model directory, checkpoint or adapter holds.",
    "export": "Write an adapter in another tool's spelling.",
}
"""Command names and their one-line help, so that `-h` imports none of them."""

_WATCHDOG = "Impacting Interactivity"


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


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="mlx-ltxw")
def group() -> None:
    """LTX-2.3 video with sound, and adapters that whisper, in MLX.

    `mlx-ltxw generate "a woman in dim light, (woman, whispering): \\"close your eyes\\"" -o out.mp4`
    """


def main() -> None:
    """Entry point: errors a user can mend are one message and exit 2; Ctrl-C exits 130."""
    settle()
    try:
        sys.exit(group.main(standalone_mode=False))
    except UserError as error:
        _fail(f"Error: {error}", 2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("Stopped; nothing half-written was left behind.", 130)
    except RuntimeError as error:
        if _WATCHDOG not in str(error):
            raise
        _fail(
            "Error: the system ended the GPU's work because it held up the display. "
            "Close other windows or choose a smaller size, and run it again.",
            2,
        )


def _fail(message: str, code: int) -> None:
    click.echo(message, err=True)
    sys.exit(code)
