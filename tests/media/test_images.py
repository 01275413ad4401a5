"""Still pictures: how they come in, and which do not."""

import io
import struct
import subprocess
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.containers import collected_notes
from mlx_ltxw.media.images import compressed, cover, read_image

RANDOM = np.random.default_rng(2)
PICTURE = RANDOM.integers(0, 256, (20, 32, 3), dtype=np.uint8)
SMOOTH = np.stack(
    [np.add.outer(np.arange(64), np.arange(96)) * part % 256 for part in (1.0, 0.7, 0.4)], axis=-1
).astype(np.uint8)  # fmt: skip


def saved(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda x: x), (2, lambda x: x[:, ::-1]), (3, lambda x: x[::-1, ::-1]), (4, lambda x: x[::-1]),
        (5, lambda x: x.swapaxes(0, 1)), (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: x.swapaxes(0, 1)[::-1, ::-1]), (8, lambda x: np.rot90(x, 1)),
    ],
)  # fmt: skip
def test_exif_turns_a_picture_upright(tmp_path, orientation, upright):
    """By TIFF 6.0's table of where row 0 and column 0 lie."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(PICTURE), exif=exif)
    np.testing.assert_array_equal(read_image(path), upright(PICTURE))


def test_what_is_transparent_lies_on_white(tmp_path):
    alpha = np.full((20, 32, 1), 128, np.uint8)
    alpha[:, :4], alpha[:, -4:] = 0, 255
    image = Image.fromarray(np.concatenate([PICTURE, alpha], axis=-1))
    share = alpha / 255
    expected = PICTURE * share + 255 * (1 - share)
    found = read_image(saved(tmp_path / "a.png", image))
    assert np.abs(found - expected).max() <= 1
    palette = Image.fromarray(np.zeros((20, 32), np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    found = read_image(saved(tmp_path / "b.png", palette, transparency=0))
    assert (found == 255).all()


def test_sixteen_bits_and_grey(tmp_path):
    """65535 is white and 32768 is the middle; Pillow alone would cut both to 255."""
    steps = np.repeat(np.array([[0, 257, 32768, 65535]], np.uint16), 20, axis=0).repeat(8, axis=1)
    found = read_image(saved(tmp_path / "a.png", Image.fromarray(steps)))
    np.testing.assert_array_equal(found[0, ::8], [[0] * 3, [1] * 3, [128] * 3, [255] * 3])
    found = read_image(saved(tmp_path / "b.tiff", Image.fromarray(steps.astype(np.float32) / 65535)))
    np.testing.assert_array_equal(found[0, ::8], [[0] * 3, [1] * 3, [128] * 3, [255] * 3])
    grey = read_image(saved(tmp_path / "c.png", Image.fromarray(PICTURE[..., 0])))
    np.testing.assert_array_equal(grey, np.repeat(PICTURE[..., :1], 3, axis=-1))


def test_grey_that_is_no_number_and_grey_that_is_transparent(tmp_path):
    values = np.full((20, 32), 0.5, np.float32)
    values[0], values[1], values[2] = np.nan, np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_image(saved(tmp_path / "a.tif", Image.fromarray(values)))
    assert [found[row].max() for row in (0, 1, 2, 3)] == [0, 255, 0, 128]
    deep = np.full((20, 32), 30000, np.uint16)
    deep[:5] = 1234
    found = read_image(saved(tmp_path / "b.png", Image.fromarray(deep), transparency=1234))
    assert (found[:5] == 255).all()
    assert (found[5:] == 117).all()


def test_what_pillow_warns_of_is_not_printed(tmp_path):
    """A TIFF whose list of tags is cut off; the sentence that it is no picture is enough."""
    whole = saved(tmp_path / "a.tif", Image.fromarray(PICTURE)).read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[:20])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"is no picture|is damaged"):
            read_image(tmp_path / "a.tif")


def test_inks_and_colour_profiles(tmp_path):
    """Cyan ink alone takes away the red; a profile of swapped colours is taken out again."""
    cyan = read_image(saved(tmp_path / "a.tiff", Image.new("CMYK", (32, 20), (255, 0, 0, 0))))
    assert (cyan == [0, 255, 255]).all()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = read_image(saved(tmp_path / "b.png", Image.fromarray(PICTURE), icc_profile=profile))
    assert np.abs(same.astype(int) - PICTURE).max() <= 1
    broken = read_image(saved(tmp_path / "c.png", Image.fromarray(PICTURE), icc_profile=b"no profile"))
    np.testing.assert_array_equal(broken, PICTURE)


@pytest.mark.parametrize("ending", [".webp", ".bmp", ".jp2", ".avif", ".tiff", ".ppm"])
def test_kinds_of_files(tmp_path, ending):
    lossless = {".webp": {"lossless": True}, ".avif": {"quality": 100, "subsampling": "4:4:4"}}
    path = saved(tmp_path / f"a{ending}", Image.fromarray(SMOOTH), **lossless.get(ending, {}))
    assert np.abs(read_image(path).astype(int) - SMOOTH).mean() < 1


def test_heic_of_one_picture(tmp_path):
    """Stored as a track of HEVC; FFmpeg makes the file."""
    saved(tmp_path / "a.png", Image.fromarray(SMOOTH))
    call = ["ffmpeg", "-v", "error", "-i", "a.png", "-c:v", "libx265", "-x265-params", "lossless=1:log-level=none"]
    subprocess.run([*call, "-pix_fmt", "yuv444p", "-brand", "heic", "-f", "mp4", "a.heic"], cwd=tmp_path, check=True)
    assert np.abs(read_image(tmp_path / "a.heic").astype(int) - SMOOTH).mean() < 4


def test_a_moving_picture_gives_its_first(tmp_path):
    still = [Image.fromarray(np.full((20, 32, 3), value, np.uint8)) for value in (10, 200)]
    path = saved(tmp_path / "a.gif", still[0], save_all=True, append_images=still[1:])
    with collected_notes() as notes:
        assert (read_image(path) == 10).all()
    assert notes == ["moves; its first picture is used."]


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 64), (96, 96), (17, 11)])
@pytest.mark.parametrize("size", [(48, 80), (20, 20), (333, 210)])
def test_cover_is_the_official_resize(size, width, height):
    """`resize_and_center_crop` in its own words: torch's bilinear of the whole, cut about the middle."""
    image = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)
    scale = max(height / size[0], width / size[1])
    tall, wide = (int(np.ceil(side * scale)) for side in size)
    pixels = torch.from_numpy(image).float().permute(2, 0, 1)[None]
    whole = torch.nn.functional.interpolate(pixels, size=(tall, wide), mode="bilinear", align_corners=False)
    top, left = (tall - height) // 2, (wide - width) // 2
    expected = whole[0, :, top : top + height, left : left + width].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(cover(image, width, height), expected, atol=2e-2)


@pytest.mark.parametrize("crf", [18, 33])
def test_compression_is_x264s(tmp_path, crf):
    """FFmpeg's own command makes the same frame; an odd row and column are left out."""
    image = np.pad(SMOOTH, ((0, 1), (0, 1), (0, 0)))
    saved(tmp_path / "a.png", Image.fromarray(SMOOTH))
    call = ["ffmpeg", "-v", "error", "-i"]
    made = ["-c:v", "libx264", "-crf", str(crf), "-preset", "veryfast", "-pix_fmt", "yuv420p", "a.mp4"]
    subprocess.run([*call[:-1], "-framerate", "1", "-i", "a.png", *made], cwd=tmp_path, check=True)
    subprocess.run([*call, "a.mp4", "b.png"], cwd=tmp_path, check=True)
    expected = np.asarray(Image.open(tmp_path / "b.png").convert("RGB")).astype(int)
    found = compressed(image, crf)
    assert found.shape == SMOOTH.shape
    assert np.abs(found - expected).mean() < 1
    assert 0.1 < np.abs(found.astype(int) - SMOOTH).mean() < 30
    assert compressed(image, 0) is image


def claiming(width, height):
    """A PNG of a few bytes whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (claiming(20000, 20000), "too many for a picture"),
        (claiming(12000, 12000), "claims 12000x12000 pixels"),
        (claiming(1, 1), "is 1x1 pixels, which shows nothing"),
        (claiming(600, 600), "is damaged"),
        (b"a picture, but in words\n" * 20, "is no picture"),
        (b"", "is no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "is no picture"),
    ],
    ids=["bomb", "large", "small", "cut", "text", "empty", "a program"],
)
def test_bad_pictures_get_a_sentence(tmp_path, content, words):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_image(path)


def test_truncated_and_missing(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(PICTURE.repeat(8, 0).repeat(8, 1)).save(whole, "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(UserError, match="is damaged"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="does not exist"):
        read_image(tmp_path / "b.jpg")
    with pytest.raises(UserError, match="is a folder, not a file"):
        read_image(tmp_path)


def png(rows, interlaced=False):
    """32x32 white pixels as the specification lays them out, of which some rows are there, compressed and complete."""
    passes = [(4, 4), (4, 4), (8, 4), (8, 8), (16, 8), (16, 16), (32, 16)]  # Adam7's columns and rows of 32 by 32
    lines = [columns for columns, count in passes for _ in range(count)] if interlaced else [32] * 32
    pixels = b"".join(b"\0" + b"\xff" * 3 * columns for columns in lines[:rows])
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(pixels)[:7]),
            (b"IDAT", zlib.compress(pixels)[7:]),
            (b"IEND", b""),
        )
    )


@pytest.mark.parametrize(("interlaced", "rows"), [(False, 32), (True, 60)])
def test_a_png_whose_pixels_end_early_and_cleanly(tmp_path, interlaced, rows):
    """Pillow takes the stream's own end for the picture's, and leaves the rest black."""
    path = tmp_path / "a.png"
    path.write_bytes(png(rows, interlaced))
    assert (read_image(path) == 255).all()
    path.write_bytes(png(rows - 1, interlaced))
    with pytest.raises(UserError, match="is damaged"):
        read_image(path)


THUMBNAIL = b"Exif\0\0II*\0" + struct.pack("<IHIHHHIIHHIII", 8, 0, 14, 2, 0x201, 4, 1, 44, 0x202, 4, 1, 99, 0)


def jpeg(mode="RGB", kind="JPEG", **options):
    """A picture of many colours; a thumbnail of 99 bytes stands in its EXIF, with an end of its own."""
    file = io.BytesIO()
    exif = THUMBNAIL + b"\xff\xd8" + bytes(95) + b"\xff\xd9"
    Image.fromarray(PICTURE.repeat(8, 0).repeat(8, 1)).convert(mode).save(file, kind, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "whole",
    [
        jpeg(), jpeg("L"), jpeg("CMYK"), jpeg(progressive=True), jpeg(restart_marker_blocks=3),
        jpeg(progressive=True, restart_marker_rows=1), jpeg(subsampling="4:4:4", quality=100),
    ],
    ids=["plain", "grey", "inks", "progressive", "restarts", "both", "fine"],
)  # fmt: skip
def test_a_jpeg_whose_pixels_end_early_and_cleanly(tmp_path, whole):
    """Pillow makes the rest grey and says nothing; what is behind the picture is no part of it."""
    path = tmp_path / "a.jpg"
    for behind in (b"", bytes(1000), jpeg()[:700] + b"\xff\xd9"):
        path.write_bytes(whole + behind)
        np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")))
        for share in (0.5, 0.95):
            path.write_bytes(whole[: int(len(whole) * share)] + b"\xff\xd9" + behind)
            with pytest.raises(UserError, match="is damaged"):
                read_image(path)


def test_a_jpeg_of_several_pictures_gives_its_first(tmp_path):
    """The second one may be damaged."""
    whole = jpeg(kind="MPO", save_all=True, append_images=[Image.new("RGB", (256, 160))])
    (tmp_path / "a.jpg").write_bytes(whole[:-300] + b"\xff\xd9")
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
        expected = np.asarray(image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), expected)


def test_a_jpeg_without_a_part_between_two_restarts(tmp_path):
    """What follows would be shown in another place."""
    whole = jpeg(restart_marker_blocks=3)
    (tmp_path / "a.jpg").write_bytes(whole[: whole.index(b"\xff\xd3")] + whole[whole.index(b"\xff\xd4") :])
    with pytest.raises(UserError, match="is damaged"):
        read_image(tmp_path / "a.jpg")


def test_a_file_that_is_larger_than_any_picture(tmp_path):
    """Pillow would search all that follows a damaged JPEG for its end."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 64)).save(path)
    data = path.read_bytes()
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.truncate(5 << 30)  # takes no room on the disk
    with pytest.raises(UserError, match=r"has 5\.37 GB, more than any picture"):
        read_image(path)
