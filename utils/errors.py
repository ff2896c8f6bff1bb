"""Mistakes that a user can correct end a script with one sentence instead of a traceback."""

import errno
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress


class UserError(Exception):
    """What was expected, what was found and what to run or change, in one sentence that names the file."""

    def __init__(self, sentence: str):
        # A DataLoader raises the error of a worker again, with the traceback of the worker as text before it.
        super().__init__(str(sentence).strip().rpartition("UserError: ")[2])


def run(main: Callable[[], None]) -> None:
    """Call a script's ``main``; a :class:`UserError` is printed on stderr and ends the process with exit code 1.

    So is an error of a full disk, of permissions, or of a limit on open files.  Every error is recorded for torchrun, which shows
    the error of the rank that failed first.
    """
    open_standard_files()
    try:
        try:
            main()
        except OSError as error:
            sentence = sentence_of(error)
            if sentence is None:
                raise
            sys.unraisablehook = lambda _: None         # destructors of what was half built would print tracebacks
            raise UserError(sentence) from error
    except Exception as error:
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler
            get_error_handler().record_exception(error)
        if not isinstance(error, UserError):
            raise
        with suppress(OSError):                 # the terminal was closed
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def open_standard_files() -> None:
    """Open /dev/null as stdin, stdout or stderr if it is closed (2>&-): the next file would get its number, and its messages."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):          # a new file gets the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))                              # noqa: SIM115  for the rest of the process


def sentence_of(error: OSError) -> str | None:
    """What a user can do about an error of the system; None if it is another one."""
    file = f" for {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (f"no room on the disk{file} ({error.strerror}); files that were complete still are: make room and start again")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"too many open files{file}: the limit is {limit}; raise it (ulimit -n {max(1024, 2 * limit)}) and start again"
    if error.errno in (errno.EACCES, errno.EPERM) and error.filename:
        return f"no permission{file} ({error.strerror}); ask its owner for it, or choose another file or folder"
    return None
