"""`mlx-ltxw studio`: a page in the browser that makes, keeps and compares takes."""

from __future__ import annotations

from pathlib import Path

import click

from mlx_ltxw.cli.fields import FileName
from mlx_ltxw.errors import UserError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--folder", type=FileName(path_type=Path), metavar="DIR", default=Path("~/mlx-ltxw-studio"),
              show_default=True, help="Where it keeps takes and their history.")  # fmt: skip
@click.option(
    "-m",
    "--model",
    type=FileName(),
    metavar="DIR|REPO",
    help="The model where the page names no other.  [default: the built-in]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens; others need its token then.")
@click.option("--port", type=click.IntRange(0, 65535), default=8188, show_default=True, help="0 takes a free one.")
@click.option("--token", metavar="TEXT", help="Ask for this token, also on this machine.  [default: made for others]")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Another name this machine is reached by.")
@click.option("--browser/--no-browser", default=True, help="Open it in the browser.  [default: open]")
def studio(
    folder: Path, model: str | None, host: str, port: int, token: str | None, names: tuple[str, ...], browser: bool
) -> None:
    """Open the studio: a page that makes takes, keeps them, and compares them by ear.

    Only this machine reaches it unless --host says otherwise. A job that is cut, by Ctrl-C, a crash or a power failure,
    goes on when the studio is opened again.
    """
    try:
        from mlx_ltxw.studio.server import serve
    except ModuleNotFoundError as error:
        raise UserError(
            f"The studio needs {error.name}, which is not installed.", "Install it: pip install 'mlx-ltxw[studio]'."
        ) from error
    if token is not None and len(token) < 8:
        raise UserError("A token of less than 8 letters is guessed.", "Give {field:token} a longer one.")
    serve(folder, host, port, model, token, names, browser, lambda address: click.echo(f"The studio: {address}"))
