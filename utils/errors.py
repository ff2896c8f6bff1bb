"""Mistakes that a user can mend end a script with one sentence instead of a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """What was expected, what was found and what to run or change, in one sentence that names the file."""

    def __init__(self, sentence: str):
        # A DataLoader raises a worker's error anew, with the worker's traceback as text in front of it.
        super().__init__(str(sentence).strip().rpartition("UserError: ")[2])


def run(main: Callable[[], None]) -> None:
    """Call a script's ``main``; a :class:`UserError` is printed on stderr and ends the process with code 1."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
