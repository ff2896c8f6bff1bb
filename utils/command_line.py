"""What several command lines need."""

import argparse
from collections.abc import Callable
from pathlib import Path

from utils.errors import UserError


def at_least(minimum, kind) -> Callable:
    """An argparse type: ``kind`` (int, float) from ``minimum`` up."""
    def number(text: str):
        value = kind(text)
        if not value >= minimum:
            raise argparse.ArgumentTypeError(f"expected {minimum} or more, found {text}")
        return value
    return number


def make_folder(folder: Path, options: str) -> None:
    """The folder, with those above it; ``options``: the options that name another one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made ({error.strerror}); give another with {options}") from error
