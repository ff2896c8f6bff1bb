"""Images: from an encoded file to pixels, whoever wrote it, and from pixels to network input on its device."""

import re
import struct
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

LARGEST = 1 << 25           # pixels of an image that is decoded: 33 million, 100 MB
SCANS = 100                 # of a JPEG: a few bytes each can mean a pass over all pixels; encoders write about ten
HARMLESS = 1 << 28          # pixels times bytes of a file whose scans need not be counted: a second at most
MARKERS = 10_000            # segments of a JPEG that are looked at
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")   # what stands between is skipped, as libjpeg does; and restarts in a scan


def decode(data, colours: int = cv2.IMREAD_COLOR_RGB) -> np.ndarray:
    """Pixels uint8 [H, W, 3], RGB, of an encoded JPEG, PNG, BMP or WebP; ``colours``: a flag of cv2.imdecode.

    Raises ValueError, in words that follow "is no image that OpenCV can decode", for anything else.  The size that
    the header claims is looked at first: a file of 1 KB can ask for gigabytes.
    """
    data = memoryview(data)
    size = claimed_size(data)
    if size is None:
        raise ValueError("no whole JPEG, PNG, BMP or WebP with a size")
    if size[0] * size[1] > LARGEST:
        raise ValueError(f"it claims {size[0]}x{size[1]} pixels, more than {LARGEST:,}")
    if size[0] * size[1] * len(data) > HARMLESS and data[:2] == b"\xff\xd8" and scans(data) > SCANS:
        raise ValueError(f"a JPEG of more than {SCANS} scans")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), colours)
    except cv2.error as error:
        raise ValueError(str(error.err)) from error
    if image is None:
        raise ValueError(f"{len(data)} bytes, damaged or cut short")
    return image


def claimed_size(data) -> tuple[int, int] | None:
    """(width, height) in the header of a JPEG, PNG, BMP or WebP; None when there is no such header."""
    try:
        if data[:2] == b"\xff\xd8":
            return jpeg_size(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return png_size(data)
        if data[:2] == b"BM":
            old = struct.unpack_from("<I", data, 14)[0] == 12       # OS/2's header
            width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
            return abs(width), abs(height)                          # a negative height: rows from the top down
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return webp_size(data)
    except (struct.error, IndexError):
        pass
    return None


def jpeg_segments(data) -> Iterator[tuple[int, int]]:
    """(marker, first byte behind it) of each segment up to the end of the image, MARKERS at most."""
    at = 2
    for _ in range(MARKERS):
        marker = data[at + 1]
        if data[at] == 0xff and 0xd7 < marker < 0xff:       # as it should be; the search below takes four times as long
            at += 2
        else:
            found = MARKER.search(data, at)
            if found is None:
                return
            marker, at = found[1][0], found.end()
        if marker == 0xd9:
            return
        yield marker, at
        if marker > 1:
            at += struct.unpack_from(">H", data, at)[0]


def jpeg_size(data) -> tuple[int, int] | None:
    """From the first frame header; None where the pixels come without one."""
    for marker, at in jpeg_segments(data):
        if 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc):
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker == 0xda:
            return None
    return None


def scans(data) -> int:
    """Scans of a JPEG, or MARKERS where it has so many segments that nobody has looked at all."""
    found = segments = 0
    try:
        for marker, _ in jpeg_segments(data):
            found, segments = found + (marker == 0xda), segments + 1
    except (struct.error, IndexError):          # cut short
        pass
    return found if segments < MARKERS else MARKERS


def png_size(data) -> tuple[int, int] | None:
    """From the first chunk; none may be longer than the file: OpenCV takes memory for what a chunk promises, up to 4 GB."""
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if at > len(data):
            return None
    return struct.unpack_from(">II", data, 16)


def webp_size(data) -> tuple[int, int] | None:
    """From the first chunk: lossy, lossless, or extended."""
    if data[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3fff, height & 0x3fff
    if data[12:16] == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    return None


def to_input(images: Tensor, device: torch.device | str, flip: Tensor | None = None,
             pixel_scale: float = 127.5) -> Tensor:
    """Network input [B, 3, H, W] float32 in channels_last, (x - 127.5) / pixel_scale.

    images: uint8 [B, H, W, 3], RGB.  flip: bool [B], True = mirror left to right.
    Only a quarter of the float bytes crosses to the device, and the permuted view of [B, H, W, 3]
    already *is* channels_last: nothing is copied for the layout.
    """
    x = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
    x = (x.float() - 127.5) / pixel_scale
    if flip is None:
        return x
    flip = flip.to(device, non_blocking=True).view(-1, 1, 1, 1)
    return torch.where(flip, x.flip(3), x)
