"""Pictures that people bring: what a file is by its content, its pixels the right way up, and the JPEG that is stored.

A picture's EXIF orientation is applied wherever the project decodes it (OpenCV does so), in folders, record files, .bin files and
evaluation sets alike. What is written from a folder is upright and has no such tag, so other programs see the same picture.
"""

from pathlib import Path

import numpy as np

from records.images import decode
from utils.opencv import LIMIT, cv2

JPEG_QUALITY = 95                   # of images that are encoded again
HEAD = 32                           # bytes that show what a file is
DECODED_ANYWHERE = ("JPEG", "PNG", "BMP", "WebP")       # records.images.decode checks them before OpenCV sees them
ALSO_DECODED = ("TIFF", "PNM", "GIF", "JPEG 2000", "AVIF")      # of one's own folders only; of an animation the first picture
STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF",
          b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000", b"8BPS": "Photoshop", b"BM": "BMP"}
BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"heim": "HEIC", b"heis": "HEIC",
          b"mif1": "HEIC", b"msf1": "HEIC"}
WEAK = ("BMP", "PNM")               # two letters at the start: a text can begin with them
ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm", ".pbm",
           ".pnm", ".jp2", ".avif", ".heic", ".heif"}


def kind_of(head: bytes) -> str | None:
    """The format of a picture by the first HEAD bytes of its file; None if they begin like no picture."""
    for start, kind in STARTS.items():
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12])
    return "PNM" if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() else None


def pixels(data: bytes) -> np.ndarray:
    """The picture the right way up, uint8 [H, W, 3] BGR; ValueError, in words that follow its name, if it cannot be decoded.

    Grey becomes three equal channels, 16 bits become 8, an alpha channel is dropped.
    """
    kind = kind_of(data[:HEAD])
    try:
        if kind in DECODED_ANYWHERE:
            return decode(data, cv2.IMREAD_COLOR_BGR)
        if kind not in ALSO_DECODED:
            raise ValueError(f"a {kind} file, convert it to JPEG" if kind else content(data))
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_BGR)
    except cv2.error as error:
        too_large = "CV_IO_MAX_IMAGE" in error.err
        raise ValueError(f"its header claims more pixels than {LIMIT}" if too_large else error.err) from error
    if image is None:
        raise ValueError(f"{kind} of {len(data)} bytes, corrupt or of a kind that OpenCV does not read")
    return image


def content(data: bytes) -> str:
    """What is in a file that is not a picture, in a few words."""
    if not data:
        return "the file is empty"
    if data.lstrip()[:1] == b"<":
        return "a text that begins with <, such as a web page"
    return "its content is not that of a picture"


def is_turned(data: bytes, image: np.ndarray) -> bool:
    """Whether the EXIF tag of an encoded picture turns or mirrors it.  image: its decoded pixels, BGR."""
    if b"Exif\0\0" not in data:
        return False
    flags = cv2.IMREAD_COLOR_BGR | cv2.IMREAD_IGNORE_ORIENTATION
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return stored is None or not np.array_equal(stored, image)


def upright_jpeg(data: bytes, image: np.ndarray, size: int) -> bytes:
    """A JPEG of size x size pixels of the square picture ``image`` (BGR): ``data`` itself if it is one, upright."""
    if image.shape[:2] != (size, size):
        return encode(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA))
    return data if kind_of(data[:HEAD]) == "JPEG" and not is_turned(data, image) else encode(image)


def encode(image: np.ndarray) -> bytes:
    """``image`` (BGR) as a JPEG."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def has_ending(path: Path) -> bool:
    """Whether the name is that of a picture."""
    return path.suffix.lower() in ENDINGS
