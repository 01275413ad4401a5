"""Fields of a request, of the training options and of a conversion as the flags of a command."""

from __future__ import annotations

import shlex
from typing import Any

import click

from mlx_ltxw.errors import Spelling, UserError
from mlx_ltxw.printing import read_bytes

_OTHERS = {
    "prompt": "PROMPT",
    "adapters": "--adapter",
    "images": "--image",
    "seeds": "--seed",
    "script": "--script",
    "takes": "--takes",
    "lock_video": "--lock-video",
    "audio_only": "--audio-only",
    "text_encoder": "--text-encoder",
    "quantize": "-q",
}
"""What other commands call a field; sentences that send the user there name it."""


def spelling(command: click.Command | None) -> Spelling:
    """How a command calls a field: `lock_video=False` is `--no-lock-video`, an option without a flag `--set NAME`."""
    options = {one.name: one for one in command.params} if command else {}

    def spell(name: str, value: str | None) -> str:
        option = options.get(name)
        if isinstance(option, click.Argument):
            return option.make_metavar(click.Context(command or click.Command(""))).strip("[]")
        if not isinstance(option, click.Option):
            if "settings" in options and name not in _OTHERS:
                return f"--set {name}={'…' if value is None else value}"
            return _with_value(_OTHERS.get(name, "--" + name.replace("_", "-")), value)
        flag = max(option.opts, key=len)
        if option.is_flag:
            return option.secondary_opts[0] if value == "False" and option.secondary_opts else flag
        return _with_value(flag, value)

    return spell


def _with_value(flag: str, value: str | None) -> str:
    return flag if value in (None, "True") else f"{flag} {shlex.quote(str(value))}"


def size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """The callback of an option that takes a size, such as `12GB`: bytes."""
    try:
        return None if value is None else read_bytes(value)
    except ValueError as error:
        raise UserError(f"{error}.", "Write it as 12GB or 800MB.") from error


def once(context: click.Context, parameter: click.Parameter, values: tuple[Any, ...]) -> Any:
    """The callback of an option that takes one value, and might be thought to take several: a second one is refused."""
    if len(values) > 1:
        flag = max(parameter.opts, key=len)
        raise UserError(f"{flag} is given {len(values)} times, and a run takes one.", "Leave out all but one.")
    return values[0] if values else None
