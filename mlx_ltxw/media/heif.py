"""HEIC pictures, as phones take them: by libheif, which puts tiles together and turns them upright."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_ltxw.media.colour import HDR_NAMES, SDR_PRIMARIES, from_wide_primaries, tone_mapped_still
from mlx_ltxw.media.containers import note

if TYPE_CHECKING:
    from PIL import Image

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_UNMARKED = (0, 2)


def is_heif(path: Path | str) -> bool:
    """Whether a file says that it holds HEIF pictures in HEVC."""
    with open(path, "rb") as file:
        head = file.read(64)
    box = head[: max(16, int.from_bytes(head[:4], "big"))]
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS and b"avif" not in box


def open_heif(path: Path | str) -> Any | None:
    """Its pictures, of which nothing is decoded yet; None where it holds a track of video instead.

    Raises:
        ValueError, EOFError, OSError, RuntimeError, SyntaxError: the file is damaged.
    """
    import pillow_heif

    try:
        return pillow_heif.open_heif(path, convert_hdr_to_8bit=False)
    except (ValueError, SyntaxError, RuntimeError):
        if has_box(path, b"moov"):
            return None
        raise


def has_box(path: Path | str, kind: bytes) -> bool:
    """Whether a file in boxes has one of a kind at its top level."""
    with open(path, "rb") as file:
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[:4], "big")
            if head[4:] == kind:
                return True
            if size == 1:
                size = int.from_bytes(file.read(8), "big") - 8
            if size < 8:
                return False
            file.seek(size - 8, 1)
    return False


def decoded_heif(path: Path | str, pictures: Any) -> Image.Image:
    """The main picture, upright, of 8 bits a channel, with its colour profile and alpha where it has them.

    Turned by its own boxes, as the standard says; its EXIF orientation counts for nothing. In PQ or HLG it is
    tone-mapped, which is said.

    Raises:
        ValueError, EOFError, OSError, RuntimeError, SyntaxError: the file is damaged.
    """
    from PIL import Image

    if len(pictures) > 1:
        note(path, f"holds {len(pictures)} pictures; its main one is used.")
    values, info = np.asarray(pictures), pictures.info
    bits = info["bit_depth"] if values.dtype == np.uint16 else 8
    if values.ndim == 2 or values.shape[2] < 3:  # grey, perhaps with alpha
        values = values if values.ndim == 3 else values[..., None]
        values = np.concatenate([values[..., :1]] * 3 + [values[..., 1:]], axis=-1)
    values = _all_bits(values, bits)
    colours, alpha = values[..., :3], values[..., 3:]
    if alpha.size and pictures.premultiplied_alpha:
        colours = _divided(colours, alpha)
    tags = info.get("nclx_profile") or {}
    transfer, primaries = (tags.get(name, 2) for name in ("transfer_characteristics", "color_primaries"))
    embedded = info.get("icc_profile")
    if transfer in HDR_NAMES:
        note(path, f"is a picture in {HDR_NAMES[transfer]}; it is tone-mapped.")
        rgb, embedded = tone_mapped_still(colours, transfer, primaries), None
    elif embedded is None and primaries not in (*SDR_PRIMARIES, *_UNMARKED):
        rgb = from_wide_primaries(colours, _chromaticities(tags))
    else:
        rgb = _eight_bits(colours)
    image = Image.fromarray(np.concatenate([rgb, _eight_bits(alpha)], axis=-1))
    if embedded:
        image.info["icc_profile"] = embedded
    return image


def _chromaticities(tags: dict[str, Any]) -> np.ndarray:
    """(4, 2) of red, green, blue and white."""
    return np.array(
        [[tags[f"color_primary_{name}_{axis}"] for axis in "xy"] for name in ("red", "green", "blue", "white")]
    )


def _all_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """(H, W, C) uint16 over its whole range; libheif's lie in the upper bits of 16, the lower ones are 0."""
    if values.dtype == np.uint8:
        return values.astype(np.uint16) * 257
    top = ((1 << bits) - 1) << (16 - bits)
    return np.rint(values * (65535 / top)).astype(np.uint16)


def _divided(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours that were multiplied by their alpha, as they were before."""
    share = np.maximum(alpha.astype(np.float32), 1) / 65535
    return np.minimum(np.rint(colours / share), 65535).astype(np.uint16)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    return np.rint(values / 257).astype(np.uint8)
