"""The names of a .rec and its .idx, and the .idx itself: a line "key<TAB>offset" for each record of the .rec."""

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np

from utils.errors import UserError

EDGE = 64 * 1024        # bytes at each end of the .rec that enter its fingerprint
MAX_LINE = 64           # bytes of a line of the .idx: two numbers of 20 digits at most


def record_files(path) -> tuple[Path, Path]:
    """(.rec, .idx) of ``path``, which is a .rec, a prefix, or a folder with a train.rec; UserError if one is missing."""
    rec = Path(path)
    if rec.suffix != ".rec":
        rec = rec / "train.rec" if rec.is_dir() else rec.with_name(rec.name + ".rec")
    idx = rec.with_suffix(".idx")
    if rec.is_file() and not idx.exists():
        raise UserError(f"no file {idx}; write it again from the .rec with: python tools/make_rec/make_rec.py --index {rec}")
    for file in (rec, idx):
        if not file.is_file():
            raise UserError(f"no file {file}; expected a .rec and an .idx of the same name (tools/split_dataset "
                            f"makes the parts of train.rec, tools/make_rec makes both files from a folder of images)")
        if not os.access(file, os.R_OK):
            raise UserError(f"{file} cannot be read: no permission; ask its owner for it, or: chmod a+r {file}")
    return rec, idx


def read_index(path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(keys int64 [N], offsets int64 [N] in bytes) of an .idx, in its own order.  ``size``: bytes of the .rec.

    UserError if it is not a list of whole numbers, points outside the .rec, or has a key or an offset twice.
    """
    if path.stat().st_size > MAX_LINE * (size // 8):
        raise UserError(f"{path} has {path.stat().st_size} bytes, far more than an index of {path.with_suffix('.rec')} "
                        f"with its {size} can need; the two files do not belong together: copy both again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)                # an empty file
            warnings.simplefilter("error", DeprecationWarning)          # 1.5 for a key
            lines = np.loadtxt(path, np.int64, comments=None, delimiter="\t", ndmin=2, encoding="ascii")
    except (ValueError, DeprecationWarning) as error:
        raise UserError(f"{path} is not an index ({error}); expected lines of key<TAB>offset: copy it again") from error
    if lines.size == 0 or lines.shape[1] != 2:
        raise UserError(f"{path} holds {lines.size} numbers in {len(lines)} lines; expected lines of key<TAB>offset: copy it "
                        f"again")
    keys, offsets = lines[:, 0].copy(), lines[:, 1].copy()
    outside = np.flatnonzero((offsets < 0) | (offsets > size - 8) | (offsets % 4 != 0))
    if len(outside):
        raise UserError(f"{path}: key {keys[outside[0]]} points to byte {offsets[outside[0]]}, "
                        f"but {path.with_suffix('.rec')} has {size} bytes; the two files do not belong together or the .rec "
                        f"is cut short: copy both again")
    for kind, numbers in (("key", keys), ("byte", offsets)):
        if not ascending(numbers) and not ascending(np.sort(numbers)):
            raise UserError(f"{path} names a {kind} twice; copy or make the index again")
    return keys, offsets


def ascending(numbers: np.ndarray) -> bool:
    """Whether each number is above the one before it."""
    return bool(np.all(numbers[1:] > numbers[:-1]))


def fingerprint(rec: Path, keys, offsets) -> str:
    """sha256 (hex) over the size of the .rec, the .idx, and the first and last 64 KiB of the .rec.

    keys, offsets: of the .idx, int64 [N] in its order.  Fast on 30 GB.  Images between the two ends can change without a trace
    if every length stays the same.
    """
    size = rec.stat().st_size
    digest = hashlib.sha256(f"{size}".encode())
    digest.update(memoryview(keys))
    digest.update(memoryview(offsets))
    with open(rec, "rb") as file:
        digest.update(file.read(EDGE))
        file.seek(max(size - EDGE, 0))
        digest.update(file.read(EDGE))
    return digest.hexdigest()
