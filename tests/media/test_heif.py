"""HEIC pictures, written by libheif's own encoder, and what other files are in PQ and HLG."""

import subprocess

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from pillow_heif import options

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.containers import collected_notes
from mlx_ltxw.media.images import read_image

Y, X = np.mgrid[0:96, 0:160]
SMOOTH = np.stack([X, Y * 2, (X + Y) // 2], axis=-1).astype(np.uint8)
LOSSLESS = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}


def saved(path, image, **more):
    pillow_heif.from_pillow(image).save(path, **{**LOSSLESS, **more})
    return path


def deep(path, values, **more):
    """A picture of 10 bits, of (H, W, 3) from 0 to 1."""
    pixels = np.rint(values * 65535).astype(np.uint16)
    height, width = pixels.shape[:2]
    heif = pillow_heif.from_bytes(mode="RGB;16", size=(width, height), data=pixels.tobytes())
    heif.save(path, quality=-1, chroma=444, **more)
    return path


def test_tiles_are_put_together(tmp_path, monkeypatch):
    """Four tiles of 64 by 64 across and two down, the last ones cut, as phones write them."""
    monkeypatch.setattr(options, "GRID_TILE_SIZE", 64)
    path = saved(tmp_path / "a.heic", Image.fromarray(SMOOTH))
    assert pillow_heif.open_heif(path).info["tiling"]
    assert np.abs(read_image(path).astype(int) - SMOOTH).max() <= 1


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (2, lambda x: x[:, ::-1]), (3, lambda x: x[::-1, ::-1]), (4, lambda x: x[::-1]),
        (5, lambda x: x.swapaxes(0, 1)), (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: x.swapaxes(0, 1)[::-1, ::-1]), (8, lambda x: np.rot90(x, 1)),
    ],
)  # fmt: skip
def test_its_own_turn_counts_and_not_exifs(tmp_path, orientation, upright):
    """Phones write both; turned by both a picture would stand on its head."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path, height, width = tmp_path / "a.heic", *SMOOTH.shape[:2]
    heif = pillow_heif.from_bytes(mode="RGB", size=(width, height), data=SMOOTH.tobytes())
    heif.info["exif"] = exif.tobytes()
    heif.save(path, **LOSSLESS)
    assert b"irot" in path.read_bytes() or b"imir" in path.read_bytes()
    assert exif.tobytes() in path.read_bytes()
    assert np.abs(read_image(path).astype(int) - upright(SMOOTH)).max() <= 1


def test_what_is_transparent_lies_on_white(tmp_path):
    alpha = np.full((96, 160, 1), 128, np.uint8)
    alpha[:, :32], alpha[:, -32:] = 0, 255
    path = saved(tmp_path / "a.heic", Image.fromarray(np.concatenate([SMOOTH, alpha], axis=-1)))
    share = alpha / 255
    assert np.abs(read_image(path) - (SMOOTH * share + 255 * (1 - share))).max() <= 3


def test_grey_and_ten_bits(tmp_path):
    grey = saved(tmp_path / "a.heic", Image.fromarray(SMOOTH[..., 0]), chroma=420, matrix_coefficients=1)
    assert np.abs(read_image(grey).astype(int) - SMOOTH[..., :1]).max() <= 2
    values = np.stack([X / 159, Y / 95, 1 - X / 159], axis=-1)
    path = deep(tmp_path / "b.heic", values, color_primaries=1, transfer_characteristics=13, matrix_coefficients=0)
    found = read_image(path)
    assert np.abs(found - values * 255).max() <= 1.5
    assert (found[0, 0, 2], found[0, -1, 0]) == (255, 255)  # 1023 of 1023 is white, not 1023 of 1024


def test_wide_colours_come_into_srgb(tmp_path):
    """Display P3's own green is beyond sRGB's; its grey is sRGB's. By the matrices of SMPTE EG 432-1."""
    values = np.full((64, 64, 3), 0.5)
    values[:32] = [0.2, 0.5, 0.3]
    path = deep(tmp_path / "a.heic", values, color_primaries=12, transfer_characteristics=13, matrix_coefficients=0)
    found = read_image(path)
    assert np.abs(found[48, 32].astype(int) - 127.5).max() <= 1.5
    to_linear = lambda v: np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)  # noqa: E731
    matrix = np.array([[1.22494, -0.22494, 0], [-0.04206, 1.04206, 0], [-0.01964, -0.07864, 1.09828]])
    linear = matrix @ to_linear(np.array([0.2, 0.5, 0.3]))
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(found[16, 32] - srgb * 255).max() <= 4


RAMP = np.repeat(np.linspace(0, 1, 128)[None, :, None], 64, axis=0).repeat(3, axis=2)
HDR = pytest.mark.parametrize(("transfer", "name", "number"), [("smpte2084", "PQ", 16), ("arib-std-b67", "HLG", 18)])


def high_range(folder, transfer, number):
    """A ramp from black to white: as HEIC by libheif, and as AVIF by FFmpeg."""
    tags = {"color_primaries": 9, "transfer_characteristics": number, "matrix_coefficients": 9, "full_range_flag": 1}
    deep(folder / "a.heic", RAMP, **tags)
    call = ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", "128x64", "-i", "-"]
    call += ["-vf", "scale=out_color_matrix=bt2020nc,format=yuv444p10le", "-color_trc", transfer, "-crf", "5"]
    call += ["-color_primaries", "bt2020", "-colorspace", "bt2020nc", "-c:v", "libaom-av1", "-cpu-used", "8"]
    raw = np.rint(RAMP * 65535).astype("<u2").tobytes()
    subprocess.run([*call, "-frames:v", "1", "a.avif"], cwd=folder, input=raw, check=True)
    return folder / "a.heic", folder / "a.avif"


@HDR
def test_high_dynamic_range_is_known_and_said(tmp_path, monkeypatch, transfer, name, number):
    """The values and tags that go to FFmpeg's tone mapping, which takes seconds (the slow test below)."""
    seen = []
    for module in ("images", "heif"):
        monkeypatch.setattr(
            f"mlx_ltxw.media.{module}.tone_mapped_still",
            lambda *given: seen.append(given) or np.zeros((64, 128, 3), np.uint8),
        )
    with collected_notes() as notes:
        for path in high_range(tmp_path, transfer, number):
            assert not read_image(path).any()
    assert [given[1:] for given in seen] == [(number, 9)] * 2
    for values, *_ in seen:
        assert np.abs(values / 65535 - RAMP).mean() < 0.01
    assert set(notes) == {f"is a picture in {name}; it is tone-mapped."}


@pytest.mark.slow
@HDR
def test_high_dynamic_range_is_tone_mapped(tmp_path, transfer, name, number):
    heic, avif = (read_image(path).astype(int) for path in high_range(tmp_path, transfer, number))
    assert np.abs(heic - avif).mean() < 3
    assert heic[32, 0].max() <= 2
    assert heic[32, -1].min() >= 215
    assert (np.diff(heic[32, :, 1]) >= -2).all()
    assert np.abs(heic - RAMP * 255).mean() > 3  # no plain reading of the values


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_cut_off_file_is_one_sentence(tmp_path, share):
    path = saved(
        tmp_path / "a.heic", Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8))
    )
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=r"a\.heic is (damaged|no picture)"):
        read_image(path)


@pytest.mark.parametrize(("width", "height", "words"), [(20000, 20000, "too many"), (1, 1, "which shows nothing")])
def test_a_size_that_is_only_claimed(tmp_path, width, height, words):
    """The box that says it, `ispe`, is rewritten."""
    path = saved(tmp_path / "a.heic", Image.fromarray(SMOOTH))
    data = bytearray(path.read_bytes())
    at = -1
    while (at := data.find(b"ispe", at + 1)) >= 0:
        data[at + 8 : at + 16] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{words}|is damaged"):
        read_image(path)


def test_several_pictures_in_one_file(tmp_path):
    heif = pillow_heif.from_pillow(Image.fromarray(SMOOTH))
    heif.add_from_pillow(Image.fromarray(255 - SMOOTH))
    heif.save(tmp_path / "a.heic", primary_index=1, **LOSSLESS)
    with collected_notes() as notes:
        found = read_image(tmp_path / "a.heic")
    assert notes == ["holds 2 pictures; its main one is used."]
    assert np.abs(found.astype(int) - (255 - SMOOTH)).max() <= 1
