"""Folders and files that only one run may write to."""

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from utils.errors import UserError
from utils.files import disk_errors

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)     # what a file system without locks answers


@contextmanager
def hold(file: Path, refusal: str, patience: float) -> Iterator[tuple[int, ...]]:
    """Hold the lock ``file`` while the block runs; yields the file descriptors that hold it.

    patience: seconds to wait for a process that is about to end.  UserError with the sentence ``refusal`` if another
    process holds the lock after that time; UserError if the file cannot be written.  A missing folder is made; the file stays.

    The kernel releases the lock when this process ends, also when it is killed.  Forked workers (of a DataLoader, of a
    multiprocessing.Pool) do not hold it.  A command that is started with ``subprocess.Popen(..., pass_fds=descriptors)``
    does: if this process is killed, the lock stays taken until the command has ended, too.  When the block ends, the lock is
    released whatever still runs.

    On a file system without locks nothing is held and nothing is refused; there are no descriptors then.
    """
    descriptors: list[int] = []
    lock = FileLock(file, timeout=patience, fallback_to_soft=False, on_acquired=descriptors.append)
    with disk_errors(file):
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(refusal) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    try:
        yield tuple(descriptors)
    finally:
        lock.release()


def hold_folder(folder: Path, refusal: str, patience: float) -> AbstractContextManager[tuple[int, ...]]:
    """:func:`hold` with the lock ``<folder>/lock``."""
    return hold(folder / "lock", refusal, patience)
