"""Sentences name fields; each way in spells them."""

import click
import pytest

from mlx_ltxw.cli.fields import spelling
from mlx_ltxw.errors import UserError, spelled


@click.command()
@click.argument("prompt")
@click.option("-o", "--output")
@click.option("--lock-video/--no-lock-video", default=None)
@click.option("--seed", "seeds", multiple=True)
@click.option("--overwrite", is_flag=True)
def command(**_):
    """Of flags of every kind."""


@click.command()
@click.option("--set", "settings", multiple=True)
@click.option("--resume", is_flag=True)
def training(**_):
    """Whose options have no flags of their own."""


@pytest.mark.parametrize(
    ("of", "text", "flag", "python"),
    [
        (command, "{field:lock_video=False}", "--no-lock-video", "lock_video=False"),
        (command, "{field:lock_video=True}", "--lock-video", "lock_video=True"),
        (command, "{field:seeds=7}", "--seed 7", "seeds=7"),
        (command, "{field:overwrite=True}", "--overwrite", "overwrite=True"),
        (command, "{field:prompt}", "PROMPT", "prompt"),
        (command, "{field:output=my file.mp4}", "--output 'my file.mp4'", "output=my file.mp4"),
        (command, "{field:adapters}", "--adapter", "adapters"),
        (command, "{field:audio_only=True}", "--audio-only", "audio_only=True"),
        (training, "{field:batch_size=4}", "--set batch_size=4", "batch_size=4"),
        (training, "{field:resume=True}", "--resume", "resume=True"),
        (None, "{field:text_encoder}", "--text-encoder", "text_encoder"),
        (command, "{plain} {field:} text", "{plain} {field:} text", "{plain} {field:} text"),
    ],
)
def test_fields(of, text, flag, python):
    assert spelled(text, spelling(of)) == flag
    assert spelled(text) == python
    error = UserError(f"Wrong {text}.", f"Set {text}.")
    assert str(error) == f"Wrong {python}. Set {python}."
    assert str(error.spelled(spelling(of))) == f"Wrong {flag}. Set {flag}."
    assert error.hint == f"Set {python}."
