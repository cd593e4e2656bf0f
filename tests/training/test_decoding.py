"""One picture of each kind, whose pixels are known: modes, depths, transparency, orientation, formats."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from stn_ext.training import decoding
from stn_ext.training.errors import UserError

GREY, COLOR = 1, 3


def decode(path, channels=COLOR, **options):
    with decoding.quietly():
        return decoding.decode(path, channels, **options)


def saved(path, values, mode=None, **options):
    Image.fromarray(np.asarray(values), mode).save(path, **options)
    return path


def png(path, depth, kind, rows, *chunks):
    """A PNG file written by hand: rows of bytes, and further chunks (name, content) before the pixels."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    width = len(rows[0]) * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind])
    header = struct.pack(">2I5B", width, len(rows), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


# --- depths and modes ---


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bits_are_divided_by_257(tmp_path, ending):
    values = np.array([[0, 128, 129, 257, 25700], [32768, 32896, 65406, 65407, 65535]], dtype=np.uint16)
    picture = decode(saved(tmp_path / f"x.{ending}", values), GREY)
    assert picture.pixels[..., 0].tolist() == [[0, 0, 1, 1, 100], [128, 128, 254, 255, 255]]
    assert picture.changes == ()


def test_16_bits_of_either_order_of_bytes(tmp_path):
    values = np.array([[0, 25700, 65535]])
    for mode, dtype in (("I;16", "<u2"), ("I;16B", ">u2")):
        image = Image.frombytes(mode, (3, 1), values.astype(dtype).tobytes())
        image.save(tmp_path / "x.tif")
        assert decode(tmp_path / "x.tif", GREY).pixels.flatten().tolist() == [0, 100, 255]


def test_16_bits_of_colours(tmp_path):
    row = struct.pack(">6H", 65535, 25700, 0, 257, 514, 771)
    pixels = decode(png(tmp_path / "x.png", 16, 2, [row])).pixels
    assert pixels.tolist() == [[[255, 100, 0], [1, 2, 3]]]


def test_1_bit(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", GREY).pixels.flatten().tolist() == [255, 0]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "x.tif")
    assert decode(tmp_path / "x.tif", COLOR).pixels.tolist() == [[[255] * 3, [0] * 3]]


def test_2_and_4_bits(tmp_path):
    assert decode(png(tmp_path / "x.png", 2, 0, [[0b00011011]]), GREY).pixels.flatten().tolist() == [
        0,
        85,
        170,
        255,
    ]
    assert decode(png(tmp_path / "y.png", 4, 0, [[0x0F]]), GREY).pixels.flatten().tolist() == [0, 255]


def test_a_palette(tmp_path):
    palette = (b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
    path = png(tmp_path / "x.png", 8, 3, [[1, 0]], palette)
    assert decode(path).pixels.tolist() == [[[200, 100, 50], [10, 20, 30]]]
    grey = decode(path, GREY)
    assert grey.pixels.flatten().tolist() == [124, 18]  # 0.299 R + 0.587 G + 0.114 B, as ITU-R 601 has it
    assert grey.changes == ("turned grey",)


def test_cmyk(tmp_path):
    path = saved(
        tmp_path / "x.tif", np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 155]]], np.uint8), "CMYK"
    )
    assert decode(path).pixels.tolist() == [[[255] * 3, [0, 255, 255], [100] * 3]]


@pytest.mark.parametrize(
    "values, expected", [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.4, 255.0], [0, 100, 255]), ([0.0], [0])]
)
def test_floating_point_of_either_range(tmp_path, values, expected):
    picture = decode(saved(tmp_path / "x.tif", np.array([values], np.float32)), GREY)
    assert picture.pixels.flatten().tolist() == expected
    assert picture.changes == ("in floating point, and rounded to bytes",)


@pytest.mark.parametrize("values", [[0, 255.5], [-0.1, 1], [np.nan, 1], [np.inf, 0]])
def test_floating_point_of_another_range_is_refused(tmp_path, values):
    path = saved(tmp_path / "x.tif", np.array([values], np.float32))
    with pytest.raises(
        UserError, match=r"x.tif: .*expected floating-point values from 0 to 1 or from 0 to 255"
    ):
        decode(path)


def test_integers_of_no_known_range_are_refused(tmp_path):
    path = saved(tmp_path / "x.tif", np.array([[0, 1000]], np.int32))
    with pytest.raises(UserError, match="32-bit integers have no known range"):
        decode(path)


# --- transparency ---


def test_transparency_shows_the_background(tmp_path):
    values = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [0, 0, 0, 51]]], np.uint8)
    path = saved(tmp_path / "x.png", values)
    white = decode(path)
    assert white.pixels.tolist() == [[[200, 100, 50], [255] * 3, [204] * 3]]
    assert white.changes == ("transparent, and laid over the background",)
    assert decode(path, background="#ff8000").pixels[0, 1].tolist() == [255, 128, 0]
    assert decode(path, background="black").pixels[0, 2].tolist() == [0, 0, 0]
    assert decode(path, GREY, background="rgb(10,10,10)").pixels[0, 1].tolist() == [10]


def test_transparency_of_grey(tmp_path):
    values = np.array([[[40, 255], [40, 0], [0, 51]]], np.uint8)
    assert decode(saved(tmp_path / "x.png", values), GREY).pixels.flatten().tolist() == [40, 255, 204]


def test_transparency_of_a_palette(tmp_path):
    chunks = (b"PLTE", bytes([10, 20, 30, 200, 100, 50])), (b"tRNS", bytes([0]))
    pixels = decode(png(tmp_path / "x.png", 8, 3, [[1, 0]], *chunks)).pixels
    assert pixels.tolist() == [[[200, 100, 50], [255, 255, 255]]]


def test_a_colour_that_is_transparent(tmp_path):
    path = png(tmp_path / "x.png", 8, 2, [[9, 9, 9, 1, 2, 3]], (b"tRNS", struct.pack(">3H", 9, 9, 9)))
    assert decode(path).pixels.tolist() == [[[255] * 3, [1, 2, 3]]]
    path = png(tmp_path / "y.png", 8, 0, [[9, 1]], (b"tRNS", struct.pack(">H", 9)))
    assert decode(path, GREY).pixels.flatten().tolist() == [255, 1]
    row = struct.pack(">3H", 65535, 25700, 25701)
    path = png(tmp_path / "z.png", 16, 0, [row], (b"tRNS", struct.pack(">H", 25700)))
    assert decode(path, GREY, background="#070707").pixels.flatten().tolist() == [255, 7, 100]


def test_transparency_of_a_gif_and_a_webp(tmp_path):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((250, 0, 0, 255), (0, 0, 4, 8))
    for ending, options in (("gif", {}), ("webp", {"lossless": True})):
        image.save(tmp_path / f"x.{ending}", **options)
        pixels = decode(tmp_path / f"x.{ending}").pixels
        assert pixels[0, 0].tolist() == [250, 0, 0] and pixels[0, 7].tolist() == [255] * 3


# --- orientation ---


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, ending, orientation):
    """EXIF says of each orientation on which sides of the scene the file's row 0 and column 0 are."""
    upright = np.kron(np.array([[0, 80, 160], [255, 200, 40]], np.uint8), np.ones((16, 16), np.uint8))
    stored = {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: upright.T,  # left, top
        6: upright.T[::-1],  # right, top
        7: upright.T[::-1, ::-1],  # right, bottom
        8: upright.T[:, ::-1],  # left, bottom
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(ending, {})
    image = Image.fromarray(np.ascontiguousarray(stored[orientation]))
    image.save(tmp_path / f"x.{ending}", exif=exif, **options)
    pixels = decode(tmp_path / f"x.{ending}", GREY).pixels[..., 0]
    # JPEG's rounding moves flat blocks by a step or two, colours by 40 at least.
    assert np.abs(pixels.astype(int) - upright).max() <= 2


def test_exif_that_cannot_be_read_says_nothing(tmp_path):
    for content in (b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\xff\xff", b"x" * 100):
        path = saved(tmp_path / "x.jpg", np.full((8, 16), 70, np.uint8), exif=content)
        assert decode(path, GREY).pixels.shape == (8, 16, 1)


# --- formats, sizes ---


def test_every_format_that_pillow_can_write_and_read(tmp_path):
    image = Image.fromarray(np.kron(np.array([[250, 20]], np.uint8), np.ones((32, 16), np.uint8)))
    tried = set()
    for ending, name in decoding.formats().items():
        if name not in Image.SAVE or name in tried:
            continue
        mode = {"XBM": "1", "MSP": "1", "BLP": "P"}.get(name, "RGB")
        path = tmp_path / f"x{ending.upper()}"
        image.convert(mode).save(path, format=name)
        pixels = decode(path, GREY).pixels
        tried.add(name)
        if mode == "RGB":  # the others have colours of their own
            assert np.abs(pixels[:, :8].astype(int) - 250).max() < 10, name
    assert tried >= {"PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "PCX", "ICO"}


def test_formats_that_need_another_program_are_none():
    known = decoding.formats()
    assert known[".png"] == "PNG" and known[".tiff"] == "TIFF" and known[".webp"] == "WEBP"
    assert not {".eps", ".ps", ".wmf", ".mpg", ".h5", ".grib", ".pdf"} & known.keys()


def test_the_format_is_told_by_the_content_but_never_a_program_started(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *_, **__: pytest.fail("it started a program"))
    path = saved(tmp_path / "x.png", np.full((4, 4), 9, np.uint8), format="BMP")
    assert decode(path, GREY).pixels.max() == 9
    (tmp_path / "y.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(UserError, match=r"y.png: cannot read the picture"):
        decode(tmp_path / "y.png")


def test_the_first_of_several(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    for ending in ("gif", "tif", "png", "webp"):
        frames[0].save(tmp_path / f"x.{ending}", save_all=True, append_images=frames[1:], lossless=True)
        picture = decode(tmp_path / f"x.{ending}", GREY)
        assert picture.pixels.max() <= 11  # of WebP, RGB that is turned grey again
        assert any("first of several" in change for change in picture.changes)
        assert picture.changes == decode(tmp_path / f"x.{ending}", GREY).changes


def test_another_size(tmp_path):
    path = saved(tmp_path / "x.png", np.full((6, 10), 77, np.uint8))
    picture = decode(path, COLOR, size=(4, 3))
    assert picture.pixels.shape == (4, 3, 3) and np.unique(picture.pixels).tolist() == [77]
    assert picture.changes == ("resized",)
    assert decode(path, COLOR, size=(6, 10)).changes == ()


def test_shrunk_pictures_are_averaged_not_picked_from(tmp_path):
    """A chequerboard becomes grey, a palette's as any: not one of its two colours."""
    board = np.indices((64, 64)).sum(0) % 2
    Image.fromarray((board * 255).astype(np.uint8)).convert("P").save(tmp_path / "x.png")
    pixels = decode(tmp_path / "x.png", GREY, size=(8, 8)).pixels
    assert pixels.min() >= 120 and pixels.max() <= 135


# --- damage ---


def test_a_decompression_bomb_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    path = png(
        tmp_path / "x.png",
        1,
        0,
        [bytes(1)],
    )
    content = bytearray(path.read_bytes())
    for side in (9500, 20000, 2**31 - 1):
        content[16:24] = struct.pack(">2I", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(
                UserError, match=r"x.png: the picture has more than \d+ pixels: make it smaller"
            ):
                decode(path)
            with decoding.quietly(), pytest.raises(UserError, match="more than"):
                decoding.read_header(path)


@pytest.mark.parametrize(
    "ending", ["png", "jpg", "gif", "webp", "tif", "bmp", "ppm", "tga", "jp2", "ico", "psd", "qoi"]
)
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / f"x.{ending}"
    if decoding.formats()[path.suffix] in Image.SAVE:
        saved(path, noise)
    else:
        path.write_bytes(b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 40, 40, 8, 3) + bytes(14))
    content = path.read_bytes()
    for length in (0, 1, 10, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=rf"x.{ending}: cannot read the picture: \S"):
            decode(path)


def test_damage_of_every_kind_raises_nothing_but_the_users_error(tmp_path):
    """Bytes changed at random in small files of many formats: read, or refused in one line."""
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (12, 9, 3), dtype=np.uint8))
    outcomes = {"read": 0, "refused": 0}
    for ending in (
        ".png",
        ".jpg",
        ".gif",
        ".webp",
        ".tif",
        ".bmp",
        ".tga",
        ".pcx",
        ".ico",
        ".sgi",
        ".jp2",
        ".dds",
    ):
        buffer = io.BytesIO()
        image.save(buffer, format=decoding.formats()[ending])
        for _ in range(30):
            content = bytearray(buffer.getvalue())
            for index in generator.integers(0, min(len(content), 200), 4):
                content[index] = generator.integers(256)
            path = tmp_path / f"x{ending}"
            path.write_bytes(content)
            try:
                picture = decode(path, GREY, size=(12, 9))
                assert picture.pixels.shape == (12, 9, 1)
                outcomes["read"] += 1
            except UserError as error:
                assert str(path) in str(error) and len(str(error).splitlines()) == 1
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 50, outcomes
