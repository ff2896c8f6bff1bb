"""What several command lines use."""

import argparse
from collections.abc import Callable
from pathlib import Path

from utils.errors import UserError


def at_least(minimum, kind) -> Callable:
    """An argparse type: a finite number of ``kind`` (int or float) that is ``minimum`` or more."""
    def number(text: str):
        value = kind(text)
        if not minimum <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected {minimum} or more, found {text}")
        return value
    return number


class Help(argparse.RawDescriptionHelpFormatter):
    """Shows a docstring with its line breaks, and the default of each option, unless it has none or its help has it already."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or default is False or default == "" or default == [] or default == argparse.SUPPRESS:
            return action.help
        if action.help is None or "default:" in action.help:
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{action.help} (default: {shown.replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """A parser whose --help begins with a docstring: what the script does and its examples; then usage and options."""

    def __init__(self, docstring: str | None, **more):
        super().__init__(description=(docstring or "").strip(), formatter_class=Help, **more)

    def format_help(self) -> str:
        usage, rest = super().format_help().split("\n\n", 1)
        first = self.description or ""
        return f"{first}\n\n{usage}\n\n{rest.removeprefix(first).lstrip()}"


def print_written(path: Path) -> None:
    """The last line of a tool: the absolute path of its result."""
    print(f"wrote {path.resolve()}", flush=True)


def make_folder(folder: Path, options: str) -> None:
    """Make the folder and its parents; UserError, which names the ``options`` for another folder, if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made ({error.strerror}); give another with {options}") from error
