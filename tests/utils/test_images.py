"""Decoding: four formats, and headers that ask for more than there is."""

import resource
import struct
import zlib

import cv2
import numpy as np
import pytest

from utils.images import LARGEST, claimed_size, decode

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
def test_pixels_are_cv2s(kind, how):
    data = encoded(kind, *how)
    assert claimed_size(data) == (24, 40)
    assert np.array_equal(decode(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1])
    assert np.array_equal(decode(memoryview(data), cv2.IMREAD_COLOR_BGR)[:, :, ::-1], decode(data))


@pytest.mark.parametrize("kind, width, height", [
    (".jpg", 60000, 60000), (".jpg", 30000, 30000), (".png", 60000, 60000), (".png", 2**31 - 1, 2**31 - 1),
    (".bmp", 30000, 30000), (".bmp", 30000, -30000), (".webp", 16383, 16383)])
def test_absurd_sizes_cost_nothing(kind, width, height):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"claims {width}x{abs(height)} pixels, more than {LARGEST:,}"):
        decode(claiming(kind, width, height))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024       # kB; cv2 alone took 5 GB


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".webp"])
def test_what_is_cut_short_is_refused(kind):
    data = encoded(kind)
    for length in [*range(64), len(data) // 2, len(data) - 20]:
        with pytest.raises(ValueError):
            decode(data[:length])


def test_other_formats_and_endless_scans_are_refused():
    with pytest.raises(ValueError, match="no JPEG, PNG, BMP or WebP"):
        decode(encoded(".tiff"))
    data = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    scan = data[data.rindex(b"\xff\xda"):-2]
    with pytest.raises(ValueError, match="scans, more than 100"):
        decode(data[:-2] + 200 * scan + data[-2:])
