"""The one error a user sees without a traceback."""

from __future__ import annotations

from mlx_ltxw.printing import printable


class UserError(Exception):
    """A mistake the user can mend. Texts from files may stand in it: its control characters are made visible.

    Args:
        message: One sentence that says what is wrong.
        hint: One sentence that says what to do about it.
    """

    def __init__(self, message: str, hint: str) -> None:
        self.message = printable(message, keep="\n\t")
        self.hint = printable(hint, keep="\n\t")
        super().__init__(f"{self.message} {self.hint}")
