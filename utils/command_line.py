"""What several command lines use."""

import argparse
from collections.abc import Callable
from pathlib import Path

from utils.errors import UserError


def at_least(minimum, kind) -> Callable:
    """An argparse type: a number of ``kind`` (int or float) that is ``minimum`` or more."""
    def number(text: str):
        value = kind(text)
        if not value >= minimum:
            raise argparse.ArgumentTypeError(f"expected {minimum} or more, found {text}")
        return value
    return number


class Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows a docstring with its line breaks, and the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def print_written(path: Path) -> None:
    """The last line of a tool: the absolute path of its result."""
    print(f"wrote {path.resolve()}", flush=True)


def make_folder(folder: Path, options: str) -> None:
    """Make the folder and its parents; UserError, which names the ``options`` for another folder, if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made ({error.strerror}); give another with {options}") from error
