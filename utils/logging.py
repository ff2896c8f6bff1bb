"""One logger, "bct": rank 0 writes to the terminal and to training.log; the other ranks only write warnings."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def start_logging(rank: int = 0, folder: str | None = None) -> logging.Logger:
    """Set up the logger "bct": lines go to stderr and, on rank 0, to <folder>/training.log.  folder None: only to stderr."""
    log = logging.getLogger("bct")
    log.handlers.clear()
    log.propagate = False
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if rank == 0 and folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(folder) / "training.log"))
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
