"""How sentences of the rest of the program name what the page has: a field of a request by its label."""

from __future__ import annotations

from mlx_ltxw.errors import UserError, spelled
from mlx_ltxw.studio import texts


def label_of(name: str, value: str | None) -> str:
    """A field as the page calls it: `lock_video=False` is `Lips follow`."""
    if (name, value) in texts.FIELD_VALUES:
        return f"“{texts.FIELD_VALUES[name, value]}”"
    label = f"“{texts.FIELDS.get(name, name.replace('_', ' '))}”"
    return label if value in (None, "True", "FILE") else f"{label} {value}"


def worded(text: str) -> str:
    """A sentence with its `{field:...}` as the page calls them."""
    return spelled(text, label_of)


def worded_error(error: UserError) -> UserError:
    """The same error in the page's words."""
    return error.spelled(label_of)
