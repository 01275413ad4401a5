"""Still pictures in: any kind that Pillow reads, upright and in sRGB, as the model saw them in its training."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media import jpeg_scans, png_rows
from mlx_ltxw.media.colour import HDR_NAMES, RgbConverter, tone_mapped_still
from mlx_ltxw.media.containers import check_regular, collected_notes, note, opened, video_stream
from mlx_ltxw.media.heif import decoded_heif, is_heif, open_heif
from mlx_ltxw.printing import readable

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 1 << 27
"""Pixels, more than any camera's; a small file can claim many more."""
MOST_BYTES = 1 << 30
"""Of a file: so many pixels in 16 bits a channel; what is behind a damaged picture is searched to its end."""
LEAST = 16
"""Pixels along the shorter side."""

# Pillow opens others too, some by programs of their own (EPS), some that name other files.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM", "TGA")
_SILENT = {"PNG": png_rows, "JPEG": jpeg_scans, "MPO": jpeg_scans}  # Pillow says nothing of pixels that are missing
_MAY_BE_HDR = ("PNG", "AVIF")
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, RuntimeError)  # Pillow's and libheif's ways to say it
_PICTURE = "Give a PNG, JPEG, WebP, AVIF, TIFF or HEIC picture"
_NO_PICTURE = f"{_PICTURE}; open it in another program to see whether it is one."


def read_image(path: Path | str) -> np.ndarray:
    """A picture (H, W, 3) uint8, upright as its EXIF orientation says and in sRGB.

    What is transparent lies on white; deeper pictures are rounded to 8 bits; of a moving one the first is taken.

    Raises:
        UserError: no picture, damaged, below 16 pixels or beyond 134 million.
    """
    check_regular(path, f"{_PICTURE}.")
    if (size := Path(path).stat().st_size) > MOST_BYTES:
        raise UserError(f"{path} has {readable(size)}, more than any picture.", _NO_PICTURE)
    if is_heif(path):
        return _heif(path)
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked, and of damaged EXIF; they name no file
            with Image.open(path, formats=formats) as image:
                check_size(path, *image.size)
                if getattr(image, "is_animated", False) and image.format != "MPO":
                    what = "holds several pictures" if image.format == "TIFF" else "moves"
                    note(path, f"{what}; its first picture is used.")
                if (kind := _SILENT.get(image.format or "")) is not None and kind.lacks_pixels(path):
                    raise EOFError
                if image.format in _MAY_BE_HDR and (tone_mapped := _hdr(path)) is not None:
                    return tone_mapped
                return np.asarray(_in_srgb(_upright(image)))
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no picture.", _NO_PICTURE) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, "more than 178 million") from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}.", "Give a file that you may read.") from error
    except _DAMAGED as error:
        raise UserError(f"{path} is damaged: it cannot be read to its end.", _NO_PICTURE) from error


def check_size(path: Path | str, width: int, height: int) -> None:
    """Refuses a picture by the size that its header claims, before any of it is decoded.

    Raises:
        UserError: too small or too large.
    """
    if width * height > MOST_PIXELS:
        raise _too_large(path, f"{width}x{height}")
    if min(width, height) < LEAST:
        raise UserError(
            f"{path} is {width}x{height} pixels, which shows nothing.", f"Give a picture of {LEAST} pixels or more."
        )


def picture_size(path: Path | str) -> tuple[int, int]:
    """Two sides of a picture, as its header has them: nothing of it is decoded, but of a HEIC.

    Raises:
        UserError: as `read_image`.
    """
    from PIL import Image

    check_regular(path, f"{_PICTURE}.")
    if not is_heif(path):
        Image.init()
        formats, wrong = [name for name in _FORMATS if name in Image.OPEN], (*_DAMAGED, Image.DecompressionBombError)
        with contextlib.suppress(*wrong), warnings.catch_warnings():  # `read_image` says what
            warnings.simplefilter("ignore")
            with Image.open(path, formats=formats) as image:
                check_size(path, *image.size)
                return image.size
    height, width = read_image(path).shape[:2]
    return width, height


def reading_memory(width: int, height: int) -> int:
    """Bytes that the process holds at most while a picture is read, compressed and scaled: Pillow's pixels, those of
    the file's colours turned to sRGB, and x264's frames. Measured at 2 and 12 million pixels, PNG and JPEG."""
    return _PER_PIXEL * width * height


_PER_PIXEL = 28


def compressed(image: np.ndarray, crf: int) -> np.ndarray:
    """A picture as a frame of H.264 gives it back; the model was trained on such frames.

    Source: `ltx_pipelines/utils/media_io/decode.py:preprocess`: libx264, preset veryfast, yuv420p, an even size.

    Args:
        image: (H, W, 3) uint8.
        crf: x264's quality; 0 leaves the picture as it is.
    """
    import av

    if crf == 0 or min(image.shape[:2]) < 2:
        return image
    height, width = (size // 2 * 2 for size in image.shape[:2])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height = width, height
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer) as container:
        return np.asarray(next(container.decode(video=0)).to_ndarray(format="rgb24"))


def cover(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture scaled to cover a size and cropped about its centre: (height, width, 3) fp32, 0 to 255.

    Source: `ltx_pipelines/utils/media_io/resize.py:resize_and_center_crop`, bilinear between pixel centres.
    """
    tall, wide = covering(image.shape[1], image.shape[0], width, height)
    top, left = (tall - height) // 2, (wide - width) // 2
    rows = _taps(image.shape[0], tall, top, height)
    columns = _taps(image.shape[1], wide, left, width)
    below, above, weight = rows
    upper, lower = (image[rows].astype(np.float32) for rows in (below, above))  # of a large picture, these alone
    strip = upper * (1 - weight)[:, None, None] + lower * weight[:, None, None]
    before, after, weight = columns
    return strip[:, before] * (1 - weight)[None, :, None] + strip[:, after] * weight[None, :, None]


def covering(from_width: int, from_height: int, width: int, height: int) -> tuple[int, int]:
    """Height and width that a picture is scaled to so that it covers a size."""
    scale = max(height / from_height, width / from_width)
    return math.ceil(from_height * scale), math.ceil(from_width * scale)


def _taps(size: int, scaled: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `count` pixels from `start` on: the two it lies between, and the second one's weight, fp32."""
    ratio = np.float32(size / scaled)
    places = np.maximum((np.arange(start, start + count, dtype=np.float32) + 0.5) * ratio - np.float32(0.5), 0)
    before = np.minimum(places.astype(np.int64), size - 1)
    return before, np.minimum(before + 1, size - 1), (places - before).astype(np.float32)


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    image.load()
    return ImageOps.exif_transpose(image)


def _in_srgb(image: Image.Image) -> Image.Image:
    """RGB, by the picture's own colour profile where it has one."""
    from PIL import Image, ImageCms

    if image.mode.startswith("I") or image.mode == "F":
        return _of_deep_grey(image)
    profile = image.info.get("icc_profile")
    clear = image.has_transparency_data
    if clear:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if profile and image.mode in ("RGB", "RGBA", "L", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            opaque = image.convert("RGB") if image.mode == "RGBA" else image
            image = (
                ImageCms.profileToProfile(opaque, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or opaque
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a profile for other colours than the picture's; without it the picture is read as most programs do
    rgb = image.convert("RGB")
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha) if clear else rgb


def _of_deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or floating point; Pillow alone would cut off what is above 255.

    Pixels that are no numbers are black, those of the value that the file calls transparent white.
    """
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    most = values.max(initial=0, where=np.isfinite(values))
    whole = 65535.0 if image.mode.startswith("I;16") or most > 255 else 255.0
    top = 1.0 if image.mode == "F" and most <= 1 else whole
    grey = np.clip(np.rint(np.nan_to_num(values) * (255 / top)), 0, 255).astype(np.uint8)
    grey[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(grey).convert("RGB")


def _heif(path: Path | str) -> np.ndarray:
    try:
        pictures = open_heif(path)
        if pictures is None:
            return _track(path)
        check_size(path, *pictures.size)
        return np.asarray(_in_srgb(decoded_heif(path, pictures)))
    except PermissionError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}.", "Give a file that you may read.") from error
    except _DAMAGED as error:
        raise UserError(f"{path} is damaged: it cannot be read to its end.", _NO_PICTURE) from error


def _track(path: Path | str) -> np.ndarray:
    """A HEIC file that holds one picture as a track of video, by FFmpeg."""
    with opened(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise UserError(f"{path} is damaged: it holds no picture.", _NO_PICTURE)
        check_size(path, stream.width, stream.height)
        frame: Any = next(container.decode(stream), None)
        if frame is None:
            raise UserError(f"{path} is damaged: it holds no picture.", _NO_PICTURE)
        return RgbConverter()(frame, frame.width, frame.height)


def _hdr(path: Path | str) -> np.ndarray | None:
    """A picture in PQ or HLG, tone-mapped, by FFmpeg, which reads its tags; None for any other."""
    with collected_notes(), opened(path, search=MOST_BYTES) as container:  # of its tracks nobody need know
        stream = video_stream(container)
        transfer = 0 if stream is None else int(stream.codec_context.color_trc)
        frame: Any = next(container.decode(stream), None) if transfer in HDR_NAMES else None
        if frame is None:
            return None
        rgb = frame.reformat(format="rgb48le").to_ndarray()
    note(path, f"is a picture in {HDR_NAMES[transfer]}; it is tone-mapped.")
    return tone_mapped_still(rgb, transfer, int(frame.color_primaries))


def _too_large(path: Path | str, size: str) -> UserError:
    return UserError(f"{path} claims {size} pixels, too many for a picture.", "Give a smaller one.")
