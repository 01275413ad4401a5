"""The one error a user sees without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend.

    Args:
        message: One sentence that says what is wrong.
        hint: One sentence that says what to do about it.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} {hint}")
        self.message = message
        self.hint = hint
