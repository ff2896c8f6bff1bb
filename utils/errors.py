"""Mistakes that a user can correct end a script with one sentence instead of a traceback."""

import errno
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """What was expected, what was found and what to run or change, in one sentence that names the file."""

    def __init__(self, sentence: str):
        # A DataLoader raises the error of a worker again, with the traceback of the worker as text before it.
        super().__init__(str(sentence).strip().rpartition("UserError: ")[2])


def run(main: Callable[[], None]) -> None:
    """Call a script's ``main``; a :class:`UserError` is printed on stderr and ends the process with exit code 1.

    A full disk is a UserError, too.  Every error is recorded for torchrun, which shows the error of the rank that failed first.
    """
    try:
        try:
            main()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            file = f" for {error.filename}" if error.filename else ""
            raise UserError(f"no room on the disk{file} ({error.strerror}); files that were complete still are: make room and "
                            f"start again") from error
    except Exception as error:
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler
            get_error_handler().record_exception(error)
        if not isinstance(error, UserError):
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
