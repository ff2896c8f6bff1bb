"""Files of results: written under another name and then renamed, so that a name always means a whole file; checksums."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.parts import new_part

# Errors of a disk or a folder, which a user can correct.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT,
               errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
BLOCK = 64 * 1024       # bytes of a block of the quick checksum
BLOCKS = 256            # number of these blocks: 16 MiB in all


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield an empty file in the folder of ``path`` to write to; when the block ends without an error, it becomes ``path``.

    Until then ``path`` is what it was before; after an error nothing of the new file remains.  Several processes may write at
    once: each has a file of its own, and the last one stays.
    """
    path = Path(os.path.realpath(path))         # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_part(path) as part:
        yield part
        put_in_place(part, path)


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """:func:`whole_file` for a block that only writes: an OSError in it becomes a UserError."""
    with disk_errors(path), whole_file(path) as part:
        yield part


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, or leave it as it was; UserError if it cannot be written."""
    with written_beside(path) as part:
        part.write_text(text, encoding="utf-8")


def read_lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8, with a byte order mark or without; UserError for other bytes."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text in UTF-8 ({error}); save it in UTF-8") from error


def put_in_place(part: Path, path: Path) -> None:
    """Rename ``part`` to ``path`` after its bytes have reached the disk: a power cut leaves the old file or the new one."""
    to_disk(part)
    os.replace(part, path)
    to_disk(path.parent)


def to_disk(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk.  Some file systems cannot do it for folders."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(number)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """An OSError of the disk or of the folder in this block becomes a UserError that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in (None, *DISK_ERRORS):     # numpy's error of writing has no number
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error} ({free_space(path)} free there); make room or choose "
                        f"another folder, and run it again") from error


def free_space(path: Path) -> str:
    """Free space, in GB, on the disk where ``path`` would be written."""
    existing = next(above for above in path.absolute().parents if above.is_dir())
    return f"{1e-9 * shutil.disk_usage(existing).free:.2f} GB"


def new_array(path: Path, dtype, shape: tuple[int, ...]) -> np.memmap:
    """A .npy file of zeros, memory-mapped for writing, whose room on the disk is allocated.

    On a full disk this is an error here; later, a write to the mapped file would end the process by a signal.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def refuse_cut(path: Path, before: os.stat_result) -> None:
    """UserError if the mapped file ``path`` is shorter than ``before``: reading beyond its end would kill the process (SIGBUS).

    A file that was removed or replaced by another is not a problem: its bytes stay until they are no longer mapped.
    """
    with suppress(FileNotFoundError):
        now = path.stat()
        if now.st_ino == before.st_ino and now.st_size < before.st_size:
            raise UserError(f"{path} has {now.st_size} bytes now and had {before.st_size} when it was opened: something has cut "
                            f"it short; copy or make it again, and start again")


def file_hash(files: list) -> str:
    """sha256 (hex) over the bytes of the files."""
    digest = hashlib.sha256()
    for name in files:
        with open(name, "rb") as file:
            for block in iter(partial(file.read, 1 << 24), b""):
                digest.update(block)
    return digest.hexdigest()


def quick_hash(path: Path) -> str:
    """sha256 (hex) over the size and 256 blocks of 64 KiB, evenly spread from the first to the last.

    These are all bytes of a file up to 16 MiB, and 16 MiB of a larger one: it sees any change longer than a 250th of the file.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}".encode())
    with open(path, "rb") as file:
        for number in range(BLOCKS):
            file.seek(number * max(size - BLOCK, 0) // (BLOCKS - 1) if size > BLOCK * BLOCKS else number * BLOCK)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def checksums(path: Path) -> dict:
    """{"bytes": size, "quick": :func:`quick_hash`, "sha256": of all bytes, as sha256sum prints it} of a file."""
    return {"bytes": path.stat().st_size, "quick": quick_hash(path), "sha256": file_hash([path])}


def damage(path: Path, kept: dict, whole: bool) -> str | None:
    """How ``path`` differs from the file whose :func:`checksums` are ``kept``; None if it does not, or if ``kept`` is empty.

    whole: compare every byte, not only size and quick checksum.
    """
    size = path.stat().st_size
    if kept.get("bytes", size) != size:
        return f"it has {size} bytes, expected {kept['bytes']}"
    same = "quick" not in kept or quick_hash(path) == kept["quick"]
    if whole and "sha256" in kept:
        same = same and file_hash([path]) == kept["sha256"]
    return None if same else "its checksum differs"
