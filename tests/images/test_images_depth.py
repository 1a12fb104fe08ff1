"""More than eight bits a channel: a deeper copy of a picture gives that picture."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from u2seg.images import read_image
from u2seg.images.depth import GDAL_NODATA, SAMPLE_MAX

RNG = np.random.default_rng(0)
PICTURE = np.clip(RNG.normal(120, 35, (40, 50, 3)), 70, 225).round().astype(np.uint8)
GREY = PICTURE[..., 0].astype(int)


def deepened(bits, picture=PICTURE):
    return np.rint(picture * ((2**bits - 1) / 255)).astype(np.uint16)


def write_png(path, values):
    """A PNG of 16 bits a channel, which Pillow can't write in colour."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    content = zlib.compress(np.insert(rows, 0, 0, axis=1).tobytes())
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b""))
    return path


def write_tiff(path, values, order="<", extra=(), tags=()):
    """An uncompressed TIFF of any type and number of channels, in one strip."""
    values = values.astype(values.dtype.newbyteorder(order))
    height, width, channels = (*values.shape, 1)[:3]
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries = [
        *((256, "I", [width]), (257, "I", [height]), (258, "H", [8 * values.itemsize] * channels), (259, "H", [1])),
        *((262, "H", [2 if channels > 2 else 1]), (273, "I", [None]), (277, "H", [channels]), (278, "I", [height])),
        *((279, "I", [values.nbytes]), (339, "H", [kind] * channels), *tags),
        *([(338, "H", list(extra))] if extra else []),
    ]
    body, table = b"", b""
    start = 8 + 2 + 12 * len(entries) + 4
    offset_of_pixels = start + 512
    for tag, letter, numbers in sorted(entries):
        if letter == "s":
            packed, count, code = numbers, len(numbers), 2
        else:
            numbers = [offset_of_pixels if number is None else number for number in numbers]
            packed, count, code = (
                struct.pack(f"{order}{len(numbers)}{letter}", *numbers),
                len(numbers),
                {"H": 3, "I": 4}[letter],
            )
        if len(packed) > 4:
            body, packed = body + packed, struct.pack(f"{order}I", start + len(body))
        table += struct.pack(f"{order}HHI", tag, code, count) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    path.write_bytes((head + table + b"\0" * 4 + body).ljust(offset_of_pixels, b"\0") + values.tobytes())
    return path


def difference(path, picture):
    return np.abs(read_image(path).astype(int) - (picture[..., None] if picture.ndim == 2 else picture)).max()


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_deeper_copy_is_the_picture(tmp_path, bits):
    for shift in (False, True):
        values = PICTURE.astype(np.uint16) << (bits - 8) if shift else deepened(bits)
        Image.fromarray(values[..., 0]).save(tmp_path / "grey.png")
        assert difference(tmp_path / "grey.png", GREY) <= 1
        assert difference(write_png(tmp_path / "colour.png", values), PICTURE) <= 1
        for order in "<>":
            assert difference(write_tiff(tmp_path / "colour.tif", values, order), PICTURE) <= 1
        assert difference(write_tiff(tmp_path / "fractions.tif", values[..., 0].astype(np.float32)), GREY) <= 1


def test_signed_numbers_and_fractions(tmp_path):
    path = tmp_path / "a.tif"
    assert difference(write_tiff(path, np.rint(GREY * (32767 / 255)).astype(np.int16)), GREY) <= 1
    assert difference(write_tiff(path, (GREY / 255).astype(np.float32)), GREY) <= 1
    assert difference(write_tiff(path, GREY.astype(np.float32) + 0.25), GREY) <= 1
    for values in ((GREY * 16 - 2048).astype(np.int16), (GREY / 10 + 280).astype(np.float32)):
        pixels = read_image(write_tiff(path, values))[..., 0]
        assert np.corrcoef(pixels.ravel(), GREY.ravel())[0, 1] > 0.99
        assert np.ptp(pixels) > 200


def test_outliers_and_no_data_do_not_dim_the_rest(tmp_path):
    path, rest = tmp_path / "a.tif", np.s_[10:]
    fractions = (GREY / 255).astype(np.float32)
    fractions[0, :6] = np.nan, np.inf, -np.inf, 1e9, -1e30, 50
    assert np.abs(read_image(write_tiff(path, fractions))[rest, :, 0].astype(int) - GREY[rest]).max() <= 1
    for missing, dtype in ((-9999, np.int16), (65535, np.uint16), (-32768, np.int16), (-9999, np.float32)):
        values = np.rint(GREY * (4095 / 255)).astype(dtype)
        values[:10] = missing  # a quarter of the picture
        pixels = read_image(write_tiff(path, values))[rest, :, 0]
        assert np.abs(pixels.astype(int) - GREY[rest]).max() <= 1, (missing, dtype)
    dead = deepened(12, GREY)
    dead[0, :5] = 9000, 20_000, 40_000, 60_000, 65_535
    assert np.abs(read_image(write_tiff(path, dead))[rest, :, 0].astype(int) - GREY[rest]).max() <= 1


def test_what_the_file_declares_counts(tmp_path):
    path = tmp_path / "a.tif"
    dark = deepened(12, GREY) // 8  # alone, it is taken for 10 bits
    assert read_image(write_tiff(path, dark))[..., 0].mean() > 1.5 * GREY.mean() / 8
    assert difference(write_tiff(path, dark, tags=[(SAMPLE_MAX, "H", [4095])]), GREY // 8) <= 1
    values = deepened(12, GREY).astype(np.int16)
    values[:10] = 0
    values[10:20] = 200
    pixels = read_image(write_tiff(path, values, tags=[(GDAL_NODATA, "s", b"200\0")]))[..., 0]
    assert (pixels[:20] == 0).all()


@pytest.mark.parametrize("kind", [1, 2], ids=["associated", "unassociated"])
def test_near_infrared_is_no_transparency(tmp_path, kind):
    infrared = np.clip(RNG.normal(150, 30, GREY.shape), 60, 240).round().astype(np.uint8)
    path = write_tiff(tmp_path / "a.tif", np.dstack([PICTURE, infrared]), extra=[kind])
    assert difference(path, PICTURE) == 0
    deep = np.dstack([deepened(12), deepened(12, infrared)])
    assert difference(write_tiff(path, deep, extra=[kind]), PICTURE) <= 1
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:20] = 0
    shown = PICTURE if kind == 2 else PICTURE * (alpha[..., None] > 0)  # associated: multiplied by it
    pixels = read_image(write_tiff(path, np.dstack([shown, alpha]), extra=[kind]))
    assert (pixels[:20] == 255).all()
    assert np.array_equal(pixels[20:], PICTURE[20:])


def test_transparency_of_deep_photos(tmp_path):
    for bits in (12, 16):
        alpha = np.full(GREY.shape, 2**bits - 1, np.uint16)
        alpha[:20] = 0
        pixels = read_image(write_png(tmp_path / "a.png", np.dstack([deepened(bits), alpha])))
        assert (pixels[:20] == 255).all()
        assert np.abs(pixels[20:].astype(int) - PICTURE[20:]).max() <= 1


def test_white_may_be_zero(tmp_path):
    image = Image.fromarray((65535 - deepened(16, GREY)).astype(np.uint16))
    image.save(tmp_path / "a.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tif") as saved:
        assert saved.tag_v2[262] == 0
    assert np.abs(read_image(tmp_path / "a.tif")[..., 0].astype(int) - GREY).max() <= 1


def test_a_format_that_hides_its_depth_is_named_where_it_matters(tmp_path, caplog):
    for name, pixels in (("dark.jp2", PICTURE // 16), ("clear.jp2", PICTURE)):
        Image.fromarray(pixels).save(tmp_path / name)
        read_image(tmp_path / name)
    assert "dark.jp2' has almost no contrast left" in caplog.text
    assert "clear.jp2" not in caplog.text


def test_a_picture_without_contrast_is_named(tmp_path, caplog):
    Image.fromarray((GREY // 20 + 30_000).astype(np.uint16)).save(tmp_path / "fog.png")
    read_image(tmp_path / "fog.png")
    assert "fog.png' has almost no contrast left" in caplog.text
    caplog.clear()
    Image.fromarray(deepened(16, GREY)).save(tmp_path / "clear.png")
    read_image(tmp_path / "clear.png")
    assert not caplog.text


def test_orientation_of_deep_photos(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(deepened(12, GREY)).save(tmp_path / "a.png", exif=exif)
    assert np.abs(read_image(tmp_path / "a.png")[..., 0].astype(int) - np.rot90(GREY, -1)).max() <= 1
