"""The one error a user sees without a traceback, and how its sentences name what the user gave."""

from __future__ import annotations

import re
from collections.abc import Callable

from mlx_ltxw.printing import printable

_FIELD = re.compile(r"\{field:(\w+)(?:=([^{}]*))?\}")

Spelling = Callable[[str, str | None], str]
"""`(name, value)` of a field -> how this way in calls it: `lock_video=False` in Python, `--no-lock-video` as a flag."""


class UserError(Exception):
    """A mistake the user can mend. Texts from files may stand in it: its control characters are made visible.

    Both sentences may name a field of the request, the training options or the conversion as `{field:NAME}` or
    `{field:NAME=VALUE}`; the command turns these into its flags. As text the error spells them as Python does.

    Args:
        message: One sentence that says what is wrong.
        hint: One sentence that says what to do about it.
    """

    def __init__(self, message: str, hint: str) -> None:
        self.message = printable(spelled(message), keep="\n\t")
        self.hint = printable(spelled(hint), keep="\n\t")
        self._raw = message, hint
        super().__init__(f"{self.message} {self.hint}")

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        """For pickling: from the texts as they were given."""
        return type(self), self._raw

    def spelled(self, spelling: Spelling) -> UserError:
        """The same error with the fields as `spelling` has them."""
        return UserError(*(spelled(text, spelling) for text in self._raw))

    def followed_by(self, sentence: str) -> UserError:
        """The same error with another sentence behind its hint."""
        message, hint = self._raw
        return UserError(message, f"{hint} {sentence}")


def as_argument(name: str, value: str | None) -> str:
    """A field as Python's argument: `lock_video=False`."""
    return name if value is None else f"{name}={value}"


def spelled(text: str, spelling: Spelling = as_argument) -> str:
    """A text with its `{field:NAME=VALUE}` replaced."""
    return _FIELD.sub(lambda found: spelling(found[1], found[2]), text)
