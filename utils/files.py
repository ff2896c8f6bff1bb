"""Files of results: written beside and renamed, so that a name always means a whole file; checksums of what is read later."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from utils.errors import UserError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR,
        errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
BLOCK, BLOCKS = 64 * 1024, 256      # bytes and number of the blocks that enter the quick checksum: 16 MiB in all


@contextmanager
def whole_file(path: Path, mark: str = "") -> Iterator[Path]:
    """Yield a name beside ``path`` to write to.  When the block ends without an error, the file is on the disk and is ``path``.

    Until then ``path`` is what it was before; after an error nothing of the new file is left.  mark: part of the name,
    where several processes may write at once.
    """
    path = Path(os.path.realpath(path))         # where a link points
    part = path.with_name(f"{path.name}{mark}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def written_beside(path: Path, mark: str = "") -> Iterator[Path]:
    """:func:`whole_file` for a block that does nothing but write: an OSError in it becomes a sentence."""
    with disk_errors(path), whole_file(path, mark) as part:
        yield part


def write_text(path: Path, text: str) -> None:
    with written_beside(path) as part:
        part.write_text(text, encoding="utf-8")


def put_in_place(part: Path, path: Path) -> None:
    """Give the file ``part`` the name ``path``, after its bytes have reached the disk: a power cut leaves one of the two."""
    to_disk(part)
    os.replace(part, path)
    to_disk(path.parent)


def to_disk(path: Path) -> None:
    """The bytes of a file, or the names in a folder, where its file system can do that with folders."""
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
    """A full disk or a folder without write permission is the user's to mend."""
    try:
        yield
    except OSError as error:
        if error.errno not in (None, *DISK):            # numpy's own error of writing has none
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error} ({free_space(path)} free there); make room or choose "
                        f"another folder, and run it again") from error


def free_space(path: Path) -> str:
    existing = next(above for above in path.absolute().parents if above.is_dir())
    return f"{1e-9 * shutil.disk_usage(existing).free:.2f} GB"


def new_array(path: Path, dtype, shape: tuple[int, ...]) -> np.memmap:
    """A .npy file of zeros, open for writing, with its room on the disk taken.

    Without that room a write to the mapped file would end the process by a signal, not by an error.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def file_hash(files: list) -> str:
    """sha256 over the bytes of the files."""
    digest = hashlib.sha256()
    for name in files:
        with open(name, "rb") as file:
            for block in iter(partial(file.read, 1 << 24), b""):
                digest.update(block)
    return digest.hexdigest()


def quick_hash(path: Path) -> str:
    """sha256 over the size and 256 blocks of 64 KiB, evenly spread with the first and the last: all of a file up to 16 MiB.

    Reads the same 16 MiB of a file of any size; sees each damage that is longer than a 250th of it.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}".encode())
    with open(path, "rb") as file:
        for number in range(BLOCKS):
            file.seek(number * max(size - BLOCK, 0) // (BLOCKS - 1) if size > BLOCK * BLOCKS else number * BLOCK)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def checksums(path: Path) -> dict:
    """What is kept of a file beside it: its size, the quick checksum, and the sha256 of the whole (as sha256sum prints it)."""
    return {"bytes": path.stat().st_size, "quick": quick_hash(path), "sha256": file_hash([path])}


def damage(path: Path, kept: dict, whole: bool) -> str | None:
    """In which way ``path`` is not the file of which :func:`checksums` was kept; None: in none, or nothing was kept.

    whole: compare every byte, not only size and quick checksum.
    """
    size = path.stat().st_size
    if kept.get("bytes", size) != size:
        return f"it has {size} bytes, expected {kept['bytes']}"
    same = "quick" not in kept or quick_hash(path) == kept["quick"]
    if whole and "sha256" in kept:
        same = same and file_hash([path]) == kept["sha256"]
    return None if same else "its checksum differs"
