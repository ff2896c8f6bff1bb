"""Images: from the bytes of other people's files to pixels, and from pixels to the input of a network on its device."""

import os
import re
import struct
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from utils.opencv import LIMIT, cv2

MAX_SCANS = 100             # scans of a JPEG: a scan of a few bytes costs a pass over all pixels; encoders write about ten
MAX_SEGMENTS = 10_000       # segments of a JPEG that are looked at
# A marker of a JPEG.  Not one: 0xff before 0x00 (a byte of the data), before 0xff (filling), restarts inside a scan.
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
JPEG, PNG, BMP = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM"
END_OF_IMAGE, START_OF_SCAN = 0xd9, 0xda


def decode(encoded, colours: int = cv2.IMREAD_COLOR_RGB) -> np.ndarray:
    """Pixels uint8 [H, W, 3], RGB, of the bytes of a JPEG, PNG, BMP or WebP; ``colours``: a flag of cv2.imdecode.

    The EXIF orientation is applied, here and everywhere in this project.  Raises ValueError, in words that follow "is not an
    image that OpenCV can decode", for anything else.  utils.opencv limits the pixels.  Two things that OpenCV 5.0 does not limit
    are looked at here, before it decodes: the scans of a JPEG, and the length of a PNG's chunks.
    """
    data = bytes(encoded)
    array = np.frombuffer(data, np.uint8)
    if data.startswith(JPEG):
        # Each scan begins with a byte 0xff: a file with few of them, like a small face, need not be searched.
        if np.count_nonzero(array == 0xff) > MAX_SCANS and count_scans(data) > MAX_SCANS:
            raise ValueError(f"a JPEG of more than {MAX_SCANS} scans, or of {MAX_SEGMENTS:,} segments")
    elif data.startswith(PNG):
        if not chunks_fit(data):
            raise ValueError(f"a PNG of {len(data)} bytes with a chunk that is longer")
    elif not data.startswith(BMP) and (data[:4], data[8:12]) != (b"RIFF", b"WEBP"):
        raise ValueError("it does not begin like a JPEG, PNG, BMP or WebP")
    try:
        image = cv2.imdecode(array, colours)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in error.err:
            raise ValueError(f"its header claims more pixels than {LIMIT} = {os.environ[LIMIT]}") from error
        raise ValueError(str(error.err)) from error
    if image is None:
        raise ValueError(f"{len(data)} bytes, corrupt or cut short")
    return image


def count_scans(data: bytes) -> int:
    """Scans of a JPEG; MAX_SEGMENTS if it has so many segments that not all were looked at."""
    scans = segments = 0
    try:
        for marker in jpeg_markers(data):
            scans, segments = scans + (marker == START_OF_SCAN), segments + 1
    except struct.error:        # cut short
        pass
    return scans if segments < MAX_SEGMENTS else MAX_SEGMENTS


def jpeg_markers(data: bytes) -> Iterator[int]:
    """The marker of each segment up to the end of the image, MAX_SEGMENTS at most.

    What is between two segments is skipped, as libjpeg does.
    """
    position = 2
    for _ in range(MAX_SEGMENTS):
        match = MARKER.search(data, position)
        if match is None or match[1][0] == END_OF_IMAGE:
            return
        marker, position = match[1][0], match.end()
        yield marker
        if marker > 1:
            position += struct.unpack_from(">H", data, position)[0]


def chunks_fit(data: bytes) -> bool:
    """Whether each chunk of a PNG up to IEND ends inside the file.

    OpenCV allocates what a chunk promises, up to 4 GB, before it reads the chunk.
    """
    position, kind = len(PNG), b""
    while kind != b"IEND":
        if position + 8 > len(data):
            return False
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
    return position <= len(data)


def to_input(images: Tensor, device: torch.device | str, flip: Tensor | None = None,
             pixel_scale: float = 127.5) -> Tensor:
    """Network input [B, 3, H, W] float32 in channels_last, (x - 127.5) / pixel_scale.

    images: uint8 [B, H, W, 3], RGB.  flip: bool [B], True: mirror left to right.  Features float32 [B, d] are the input already:
    nothing is scaled, and ``flip`` is ignored, because a mirrored image's feature is not known.
    The bytes go to the device as uint8, a quarter of float32.  The permuted view of [B, H, W, 3] is channels_last already,
    so the layout costs no copy.
    """
    if images.dim() == 2:
        return images.to(device, non_blocking=True)
    x = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
    x = (x.float() - 127.5) / pixel_scale
    if flip is None:
        return x
    flip = flip.to(device, non_blocking=True).view(-1, 1, 1, 1)
    return torch.where(flip, x.flip(3), x)
