"""Temporary names of what is being written: NAME.<8 hex digits>.part, locked while its writer lives.

Two writers of one file have two parts, so they never mix.  A part that nobody has locked was left by a killed process; the next
writer of the same name removes it.  On a file system without locks nothing is removed.
"""

import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import UserError

TOKEN = "[0-9a-f]" * 8


@contextmanager
def new_part(path: Path, *, folder: bool = False, alone: bool = False) -> Iterator[Path]:
    """Yield a new, empty, locked file (or folder) next to ``path``; removed at the end unless it has been renamed.

    Parts of ``path`` that killed processes left are removed first.  alone: UserError if another process writes ``path`` now.
    OSError if it cannot be made.
    """
    remove_left_parts(path.parent, path.name)
    part, lock = make_part(path, folder)
    try:
        others = sorted(set(parts_of(path.parent, path.name)) - {part}) if alone else []
        if others:      # on a file system without locks it may be left from a killed process
            raise UserError(f"another process is writing {path}; wait until it ends, or end it, and start again; if there is "
                            f"none, remove {others[0]}; or write to another folder")
        yield part
    finally:
        remove(part)
        os.close(lock)


def make_part(path: Path, folder: bool) -> tuple[Path, int]:
    """(a new part of ``path``, the file descriptor that holds its lock)."""
    while True:
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        if folder:
            part.mkdir()
        else:
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        with suppress(FileNotFoundError):               # a process that looks for left parts was faster than the lock: once more
            lock = os.open(part, os.O_RDONLY if folder else os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            except OSError:                             # a file system without locks
                return part, lock
            if part.exists():
                return part, lock
            os.close(lock)


def parts_of(folder: Path, name: str) -> list[Path]:
    """All parts of the file ``name`` in ``folder``; name "*": of every file."""
    return list(folder.glob(f"{'*' if name == '*' else glob.escape(name)}.{TOKEN}.part"))


def remove_left_parts(folder: Path, name: str = "*") -> None:
    """Remove the parts that no process has locked."""
    for part in parts_of(folder, name):
        with suppress(OSError):
            lock = os.open(part, os.O_RDONLY if part.is_dir() else os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(part)
            finally:
                os.close(lock)


def remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)
