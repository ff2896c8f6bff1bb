"""Decoding: four formats, and headers that ask for more than there is."""

import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from memory import less_than

from records.images import decode

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 24, 3)).astype(np.uint8)


def encoded(kind: str, *how) -> bytes:
    return cv2.imencode(kind, PIXELS, how)[1].tobytes()


def claiming(kind: str, width: int, height: int) -> bytes:
    """An image of 24 x 40 pixels whose header says otherwise."""
    data = bytearray(encoded(kind))
    if kind == ".jpg":
        at = data.index(b"\xff\xc0")
        data[at + 5:at + 9] = struct.pack(">HH", height, width)
    elif kind == ".png":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    elif kind == ".bmp":
        data[18:26] = struct.pack("<ii", width, height)
    else:
        data[21:25] = struct.pack("<I", int.from_bytes(data[21:25], "little") & ~0xfffffff | width - 1 | height - 1 << 14)
    return bytes(data)


@pytest.mark.parametrize("kind, how", [(".jpg", ()), (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)), (".png", ()), (".bmp", ()),
                                       (".webp", ()), (".webp", (cv2.IMWRITE_WEBP_QUALITY, 80))])
def test_pixels_equal_those_of_cv2(kind, how):
    data = encoded(kind, *how)
    assert np.array_equal(decode(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1])
    assert np.array_equal(decode(memoryview(data), cv2.IMREAD_COLOR_BGR)[:, :, ::-1], decode(data))


@pytest.mark.parametrize("kind, width, height", [
    (".jpg", 60000, 60000), (".jpg", 30000, 30000), (".jpg", 8192, 4097), (".png", 60000, 60000), (".png", 8192, 4097),
    (".bmp", 30000, 30000), (".bmp", 30000, -30000), (".webp", 16383, 16383), (".webp", 8192, 4097)])
def test_headers_that_claim_more_than_the_limit_cost_nothing(kind, width, height):
    with less_than(20), pytest.raises(ValueError, match="claims more pixels than OPENCV_IO_MAX_IMAGE_PIXELS = 33554432"):
        decode(claiming(kind, width, height))           # OpenCV's own limit of 2^30 pixels lets 5 GB through


def test_a_header_that_libpng_refuses_costs_nothing():
    with less_than(20), pytest.raises(ValueError, match="corrupt or cut short"):
        decode(claiming(".png", 2**31 - 1, 2**31 - 1))


def test_an_image_of_the_largest_size_is_decoded():
    largest = cv2.imencode(".png", np.zeros((4096, 8192), np.uint8))[1]
    assert decode(largest).shape == (4096, 8192, 3)


def test_an_animation_with_a_large_canvas_costs_nothing():
    if not hasattr(cv2, "imencodeanimation"):
        pytest.skip("this OpenCV does not write animations")
    animation = cv2.Animation()
    animation.frames, animation.durations = [PIXELS, PIXELS // 2], [10, 10]
    data = bytearray(cv2.imencodeanimation(".webp", animation)[1].tobytes())
    assert decode(data).shape == (40, 24, 3) and data[12:16] == b"VP8X"
    data[24:30] = (16382).to_bytes(3, "little") * 2     # width - 1, height - 1
    with less_than(20), pytest.raises(ValueError, match="claims more pixels than"):
        decode(data)


def test_a_png_whose_chunk_promises_gigabytes():
    data = encoded(".png")
    at = data.index(b"IDAT") - 4
    with less_than(20), pytest.raises(ValueError, match="a PNG of .* bytes with a chunk that is longer"):
        decode(data[:at] + b"\x7f\xff\xff\xff" + data[at + 4:])


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".webp"])
def test_an_image_cut_short_is_refused(kind):
    data = encoded(kind)
    for length in [*range(64), len(data) // 2, len(data) - 20]:
        with pytest.raises(ValueError):
            decode(data[:length])


def test_other_formats_are_refused():
    with pytest.raises(ValueError, match="does not begin like a JPEG, PNG, BMP or WebP"):
        decode(encoded(".tiff"))


def with_scans(count: int, between: bytes = b"") -> bytes:
    """A grey progressive JPEG of 4 million pixels whose last scan comes ``count`` times."""
    data = cv2.imencode(".jpg", np.full((2000, 2000, 3), 128, np.uint8), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes()
    scan = data[data.rindex(b"\xff\xda"):-2]
    return data[:-2] + count * scan + between + count * scan + data[-2:]


def test_a_jpeg_of_many_scans_is_refused_and_one_with_a_film_after_it_is_not():
    for data in (with_scans(100), with_scans(60, b"\xff\xd0" * 20_000), with_scans(0, b"\xff\x01" * 20_000)):
        with pytest.raises(ValueError, match="a JPEG of more than 100 scans"):
            decode(data)
    photo = with_scans(1) + 200 * b"\xff\xda"               # a film after the end, as telephones write it
    assert decode(photo).shape == (2000, 2000, 3)


def test_a_header_is_not_searched_for_ever():
    begin = time.monotonic()
    for filling in (b"\xff", b"\xff\x01", b"\xff\xfe\0\2"):
        with pytest.raises(ValueError, match="corrupt or cut short|more than 100 scans"):
            decode(b"\xff\xd8" + filling * (1 << 24))
    assert time.monotonic() - begin < 5
