"""One logger, "bct": rank 0 writes to the terminal and to training.log; the other ranks only write warnings."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class LogFile(logging.FileHandler):
    """training.log.  If a line cannot be written (a full disk), one warning says so and the run continues."""

    warned = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.warned:
            self.warned = True
            warn(f"a line could not be written to {self.baseFilename} ({sys.exc_info()[1]}); the run continues, and lines may be "
                 f"missing there")


class Terminal(logging.StreamHandler):
    """stderr.  A terminal that was closed, or a pipe that nobody reads, is no reason to end: the file has the lines, too."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def warn(sentence: str) -> None:
    """A warning that must not go through the log, because that may be what fails."""
    with suppress(OSError, AttributeError):         # stderr may be closed
        sys.stderr.write(f"warning: {sentence}\n")
        sys.stderr.flush()


def start_logging(rank: int = 0, folder: str | None = None) -> logging.Logger:
    """Set up the logger "bct": lines go to stderr and, on rank 0, to <folder>/training.log.  folder None: only to stderr."""
    log = logging.getLogger("bct")
    log.handlers.clear()
    log.propagate = False
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handlers: list[logging.Handler] = [Terminal(sys.stderr)]
    if rank == 0 and folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            handlers.append(LogFile(Path(folder) / "training.log", encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            warn(f"{folder}/training.log cannot be written ({error.strerror}); the run continues without it")
    mark = "" if rank == 0 else f" rank {rank}"
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"%(asctime)s{mark} %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(handler)
    return log


@contextmanager
def errors_in_log() -> Iterator[None]:
    """Write the error that ends a run to training.log, too; utils.errors.run shows it on the terminal."""
    try:
        yield
    except Exception as error:
        for handler in logging.getLogger("bct").handlers:
            if isinstance(handler, logging.FileHandler):
                handler.emit(logging.LogRecord("bct", logging.ERROR, "", 0, "ended: %s", (str(error) or repr(error),), None))
        raise
