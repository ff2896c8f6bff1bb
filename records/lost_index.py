"""The .idx of a .rec, written again from the .rec alone."""

import mmap
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from records.recordio import HEADER, LENGTH_BITS, MAGIC, MAGIC_BYTES
from utils.errors import UserError
from utils.files import write_text


def write_index(rec: Path) -> None:
    """Write the lost .idx of ``rec``.

    The keys are the ids in the records' headers, as MXNet's tools and this project write them, if no id occurs twice; else the
    records are numbered from 0 in file order, as MXNet's rec2idx does.  UserError if the .idx exists or the .rec is corrupt.
    """
    idx = rec.with_suffix(".idx")
    if not rec.is_file() or rec.suffix != ".rec":
        raise UserError(f"no file {rec}; expected a .rec file whose .idx is lost")
    if idx.exists():
        raise UserError(f"{idx} exists; remove it first if it is not the index of {rec}")
    offsets, ids = array("q"), array("Q")
    for offset, number in records_of(rec):
        offsets.append(offset)
        ids.append(number)
    own = len(np.unique(ids)) == len(ids) and max(ids) < 1 << 63
    write_text(idx, "".join(f"{key}\t{offset}\n" for key, offset in zip(ids if own else range(len(ids)), offsets, strict=True)))
    how = "by the ids in their headers" if own else "in file order, because ids in their headers occur twice"
    print(f"{idx}: {len(ids)} records, numbered {how}")


def records_of(rec: Path) -> Iterator[tuple[int, int]]:
    """(offset in bytes, id) of each record, in file order.  UserError at the first byte that is not as the format says."""
    size, offset, count = rec.stat().st_size, 0, 0
    if size == 0:
        raise UserError(f"{rec} is empty; copy it again")
    with open(rec, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, \
            tqdm(total=size, desc=f"records of {rec.name}", unit="B", unit_scale=True, delay=3, disable=None) as bar:
        while offset < size:
            start, pieces, expected = offset, list[bytes](), [0, 1]
            while expected:
                magic, word = struct.unpack_from("<II", data, offset) if offset + 8 <= size else (0, 0)
                flag, length = word >> LENGTH_BITS, word & (1 << LENGTH_BITS) - 1
                end = offset + 8 + (length + 3) // 4 * 4
                if magic != MAGIC or flag not in expected or end > size:
                    raise UserError(f"{rec}: the record at byte {start}, after {count} good ones, is corrupt or cut short at "
                                    f"byte {offset} of {size}; copy the file again")
                pieces.append(data[offset + 8:offset + 8 + min(length, HEADER.size)])
                offset, expected = end, [2, 3] if flag in (1, 2) else []
            head = MAGIC_BYTES.join(pieces)
            if len(head) < HEADER.size:
                raise UserError(f"{rec}: the record at byte {start} has {len(head)} bytes, too few for a header; copy the file "
                                f"again")
            yield start, HEADER.unpack_from(head)[2]
            count += 1
            bar.update(offset - start)
