"""MXNet's .rec/.idx record files, read and written in plain Python over mmap; byte-identical to mxnet 1.9.1.

A record is: magic word u32, (part flag << 29 | length) u32, data, zero padding to a multiple of 4; little-endian.  Data
with the magic word at a multiple of 4 is cut there into parts (part flag 1 first, 2 middle, 3 last; 0 the only part), and
the word is left out.  The .idx has a line "key<TAB>offset" for each record.
"""

import json
import mmap
import os
import struct
from array import array
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from records.index import ascending, fingerprint, read_index, record_files
from utils.errors import UserError
from utils.files import disk_errors, put_in_place, to_disk, write_text
from utils.parts import new_part

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
LENGTH_BITS = 29
HEADER = struct.Struct("<IfQQ")         # flag, label, id, id2
MAX_PREFETCH = 64 * 1024                # bytes of a record that are fetched ahead
MAX_RECORD = 1 << 27                    # bytes of a record with all its parts; no face has more


class Header(NamedTuple):
    """flag: number of labels after the header; 0: the label is in the header.  label: float32 [flag or 1]."""

    flag: int
    label: np.ndarray
    id: int
    id2: int


def pack(label, image: bytes, id: int, id2: int) -> bytes:
    """Payload of a record.  label: a number (flag 0), or a row of numbers (flag = their number)."""
    if np.ndim(label) == 0:
        return HEADER.pack(0, float(label), id, id2) + image
    row = np.asarray(label, np.float32)
    return HEADER.pack(len(row), 0.0, id, id2) + row.tobytes() + image


def unpack(payload) -> tuple[Header, memoryview]:
    """(header, image bytes) of a payload; ValueError if it is shorter than its header says."""
    if len(payload) < HEADER.size:
        raise ValueError(f"{len(payload)} bytes are too few for a header of {HEADER.size}")
    flag, label, id, id2 = HEADER.unpack_from(payload)
    if 4 * flag > len(payload) - HEADER.size:
        raise ValueError(f"{flag} labels do not fit into {len(payload)} bytes")
    row = np.frombuffer(payload, np.float32, flag, HEADER.size) if flag else np.array([label], np.float32)
    return Header(flag, row, id, id2), memoryview(payload)[HEADER.size + 4 * flag:]


class RecordReader:
    """Random access to the records of ``path`` (.rec file, prefix, or folder with train.rec).

    Safe for any number of workers and ranks: a map has no file position, and each process maps the file itself when it
    first reads (by fork, spawn or pickle).
    whole: refuse a file that ends inside its last record at once; otherwise it is refused when that record is read.
    UserError, with file, key and byte, for every record that is not as the format says.
    """

    def __init__(self, path, whole: bool = True):
        self.path, index = record_files(path)
        self.size = self.path.stat().st_size
        self.keys, self.offsets = read_index(index, self.size)
        self._order = None if ascending(self.keys) else np.argsort(self.keys)
        self.starts = self.offsets if ascending(self.offsets) else np.sort(self.offsets)
        self._map: mmap.mmap | None = None
        if whole:
            self.read(int(self.keys[np.argmax(self.offsets)]))

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_map": None}

    def __len__(self) -> int:
        return len(self.keys)

    def fail(self, key: int, offset: int, words: str) -> NoReturn:
        """UserError about a record; ``words`` follow its name."""
        raise UserError(f"{self.path}: record {key} at byte {offset} {words}; copy or make the file again")

    def row(self, key: int) -> int:
        """Position of ``key`` in the index; UserError if it has no such key."""
        if 0 <= key < len(self.keys) and self.keys[key] == key:       # insightface's keys are consecutive from 0
            return key
        row = np.searchsorted(self.keys, key, sorter=self._order)
        if row < len(self.keys) and self._order is not None:
            row = self._order[row]
        if row == len(self.keys) or self.keys[row] != key:
            raise UserError(f"{self.path} has no record {key}; its keys go from {self.keys.min()} to {self.keys.max()}")
        return int(row)

    def mapped(self) -> mmap.mmap:
        """The bytes of the .rec."""
        if self._map is None:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if len(self._map) != self.size:
                size_now, self._map = len(self._map), None
                raise UserError(f"{self.path} has {size_now} bytes now and had {self.size} when it was opened; start again")
        if self._map.size() < self.size:        # of the file now: a read beyond its end would kill the process (SIGBUS)
            raise UserError(f"{self.path} has {self._map.size()} bytes now and had {self.size} when it was opened: something has "
                            f"cut it short; copy or make it again, and start again")
        return self._map

    def prefetch(self, keys) -> None:
        """Ask the kernel for all these records at once.

        It then reads them in parallel, and nothing else.  Without this, each 6 KB image of a shuffled epoch costs a read of
        about 100 KB, one after the other.
        """
        data, rows = self.mapped(), np.array([self.row(int(key)) for key in keys])
        start = self.offsets[rows]
        stop = np.where(rows + 1 < len(self), self.offsets.take(rows + 1, mode="clip"), self.size)
        lead = start % mmap.PAGESIZE
        length = np.clip(stop - start, 0, MAX_PREFETCH) + lead
        with suppress(OSError):                     # only a hint
            for offset, size in zip((start - lead).tolist(), length.tolist(), strict=True):
                data.madvise(mmap.MADV_WILLNEED, offset, size)

    def read(self, key: int) -> bytes:
        """The payload of record ``key``; the parts of a divided record are joined.

        A record must end where another begins, so a corrupt length is refused instead of cutting the image short.
        """
        return self.record(key)[0]

    def check_end(self) -> None:
        """Refuse an index that ends before the .rec does: without a header that counts the records only this shows the cut."""
        last = int(self.keys[np.argmax(self.offsets)])
        try:
            end = self.record(last)[1]
        except UserError:               # a corrupt last record is refused when it is read
            return
        if self.begins(end):
            raise UserError(f"{self.path.with_suffix('.idx')} ends with record {last}, but {self.path} has another one after it, "
                            f"at byte {end} of {self.size}: the index is cut short; copy or make both files again")

    def record(self, key: int) -> tuple[bytes, int]:
        """(payload of record ``key``, offset in bytes of what follows it)."""
        data, row = self.mapped(), self.row(key)
        start = offset = int(self.offsets[row])
        parts: list[bytes] = []
        total = 0
        while True:
            if offset + 8 > self.size:
                self.fail(key, start, "runs past the end of the file")
            magic, word = struct.unpack_from("<II", data, offset)
            flag, length = word >> LENGTH_BITS, word & (1 << LENGTH_BITS) - 1
            if magic != MAGIC:
                self.fail(key, start, f"does not begin with the magic word (found {magic:#010x} at byte {offset})")
            if offset + 8 + length > self.size:
                self.fail(key, start, f"has {length} bytes, which runs past the end of the file")
            if flag not in ((2, 3) if parts else (0, 1)):
                self.fail(key, start, f"has parts out of order (part flag {flag} at byte {offset})")
            total += length + 8
            if total > MAX_RECORD:
                self.fail(key, start, f"has more than {MAX_RECORD:,} bytes")
            end = offset + 8 + length
            parts.append(data[offset + 8:end])
            offset += 8 + (length + 3) // 4 * 4
            if end < offset and data[end:offset].strip(b"\0"):
                self.fail(key, start, f"has something other than zeros after its {length} bytes")
            if flag in (0, 3):
                break
        next_row = row + 1 if self.starts is self.offsets else int(np.searchsorted(self.starts, start, side="right"))
        following = int(self.starts[next_row]) if next_row < len(self.starts) else self.size
        if offset > self.size:
            self.fail(key, start, "runs past the end of the file")
        if following < offset:
            self.fail(key, start, f"ends at byte {offset}, inside the record at byte {following}")
        if following > offset and not self.begins(offset):      # the index may leave records out
            self.fail(key, start, f"ends at byte {offset}, where no other record begins")
        return MAGIC_BYTES.join(parts), offset

    def begins(self, offset: int) -> bool:
        """Whether the 8 bytes at ``offset`` can be the beginning of a record."""
        if offset + 8 > self.size:
            return False
        magic, word = struct.unpack_from("<II", self.mapped(), offset)
        return magic == MAGIC and word >> LENGTH_BITS in (0, 1)

    def unpack(self, key: int) -> tuple[Header, memoryview]:
        """(header, image bytes) of record ``key``."""
        try:
            return unpack(self.read(key))
        except ValueError as error:
            self.fail(key, int(self.offsets[self.row(key)]), f"has no valid header ({error})")

    def first_labels(self, keys, forgive: bool = False) -> np.ndarray:
        """float32 [K]: the first label of each of these K records; reads only their headers.

        forgive: the label of a corrupt record is NaN instead of a UserError.
        """
        words = np.frombuffer(self.mapped(), "<u4", self.size // 4)
        first = self.offsets[[self.row(int(key)) for key in keys]] // 4
        magic, word, flag, label, after_header = (words.take(first + k, mode="clip") for k in (0, 1, 2, 3, 8))
        labels = np.where(flag == 0, label, after_header).view(np.float32)
        plain = ((first + 9 <= len(words)) & (magic == MAGIC) & (word >> LENGTH_BITS == 0)
                 & (word >= HEADER.size + 4 * flag.astype(np.int64)))
        end = first + 2 + (word.astype(np.int64) + 3) // 4
        plain &= (end < len(words)) & (words.take(end, mode="clip") == MAGIC)
        for k in np.flatnonzero(~plain):            # in parts, at the end of the file, or corrupt
            try:
                labels[k] = self.unpack(int(keys[k]))[0].label[0]
            except UserError:
                if not forgive:
                    raise
                labels[k] = np.nan
        return labels

    def fingerprint(self) -> str:
        return fingerprint(self.path, self.keys, self.offsets)


class RecordWriter:
    """Writes <prefix>.rec and <prefix>.idx; they get these names when the ``with`` block ends without an error.

    UserError if another process writes the same files: the .rec of one would get the .idx of the other.
    about: what the records were made from; <prefix>.json then has it, and the fingerprint of the records.
    """

    def __init__(self, prefix, about: dict | None = None):
        prefix = Path(prefix)
        self.about, self.keys, self.offsets = about, array("q"), array("q")
        self.targets = [prefix.with_name(prefix.name + end) for end in (".rec", ".idx")]
        self.stack = ExitStack()

    def __enter__(self):
        with disk_errors(self.targets[0]):
            with self.stack:
                self.parts = [self.stack.enter_context(new_part(target, alone=True)) for target in self.targets]
                self.stack = self.stack.pop_all()
            self.rec, self.idx = open(self.parts[0], "wb"), open(self.parts[1], "w")
        self.offset = 0
        return self

    def write(self, key: int, payload: bytes) -> None:
        """Append a record; UserError if it is longer than the readers accept or the disk is full."""
        line = f"{key}\t{self.offset}\n"
        record = bytearray()
        pieces = split_at_magic(bytes(payload))
        if len(payload) + 8 * len(pieces) > MAX_RECORD:
            raise UserError(f"{self.targets[0]}: record {key} has {len(payload)} bytes; expected {MAX_RECORD:,} at most")
        for i, piece in enumerate(pieces):
            flag = 0 if len(pieces) == 1 else 1 if i == 0 else 3 if i == len(pieces) - 1 else 2
            padding = -len(piece) % 4
            record += struct.pack("<II", MAGIC, flag << LENGTH_BITS | len(piece)) + piece + bytes(padding)
        with disk_errors(self.targets[0]):
            self.rec.write(record)
            self.idx.write(line)
        self.keys.append(key)
        self.offsets.append(self.offset)
        self.offset += len(record)

    def __exit__(self, kind, *_):
        with self.stack, disk_errors(self.targets[0]):
            self.rec.close()
            self.idx.close()
            if kind is None:
                self.give_names()

    def give_names(self) -> None:
        """Rename both files.  Meanwhile the old index is .idx.old: nobody may read it with the new .rec."""
        (rec, idx), old = self.targets, self.targets[1].with_suffix(".idx.old")
        for part in self.parts:
            to_disk(part)
        if self.about is not None:      # first: after a stop in between it does not fit the records, instead of seeming to
            about = self.about | {"records": fingerprint(self.parts[0], self.keys, self.offsets)}
            write_text(rec.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
        with suppress(FileNotFoundError):
            os.replace(idx, old)
        try:
            put_in_place(self.parts[0], rec)
            put_in_place(self.parts[1], idx)
        except BaseException:
            if self.parts[0].is_file() and old.is_file():       # the .rec is still the old one
                os.replace(old, idx)
            raise
        old.unlink(missing_ok=True)


def split_at_magic(payload: bytes) -> list[bytes]:
    """The payload cut at each magic word that starts at a multiple of 4; the words are left out."""
    pieces, start, position = [], 0, payload.find(MAGIC_BYTES)
    while position >= 0:
        if position % 4 == 0:
            pieces.append(payload[start:position])
            start = position + 4
            position = payload.find(MAGIC_BYTES, start)
        else:
            position = payload.find(MAGIC_BYTES, position + 1)
    return [*pieces, payload[start:]]
