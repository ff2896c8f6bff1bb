"""Checkpoints on the disk: which there are, whether they are whole, and of which training they are."""

import json
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.files import damage

FIXED = {"records", "method", "head", "optimizer", "seed"}      # another one would be another training
FREE = {"name", "resume", "save_every", "keep_checkpoints", "frequent", "verbose", "timeout", "val_targets"}


@dataclass(frozen=True)
class Position:
    """Where a run stands.  epoch: 0-based; images: those of the epoch that all ranks together have seen."""

    epoch: int = 0
    images: int = 0


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def last_words(output: Path) -> str:
    """Which checkpoint of a run can be gone on from."""
    found = [name for name, about in found_in(output / "checkpoints").items() if not isinstance(about, str)]
    return (f"{output / 'checkpoints' / max(found, key=int)} is the last good checkpoint" if found
            else "there was no checkpoint yet")


def found_in(folder: Path) -> dict[str, dict | str]:
    """{name: what complete.json says, or what is wrong with it} of the checkpoints in ``folder``."""
    return {name: about_checkpoint(folder / name) for name in names_in(folder) if (folder / name / "complete.json").is_file()}


def about_checkpoint(folder: Path) -> dict | str:
    """What complete.json in ``folder`` says, or what is wrong with it."""
    path = folder / "complete.json"
    try:
        about = json.loads(path.read_text())
        good = is_complete(about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    return about if good else f"{path} is torn or comes from elsewhere"


def is_complete(about: dict) -> bool:
    numbers = [about[key] for key in ("epoch", "images", "world_size")]
    ranks = enumerate(about["files"].items())
    return (all(isinstance(number, int) for number in numbers) and len(about["files"]) == about["world_size"] > 0
            and all(name == f"rank_{r}.pt" and {"bytes", "sha256"} <= file.keys() for r, (name, file) in ranks)
            and isinstance(about["settings"], dict))


def problem_of(folder: Path, about: dict | str, which: slice = slice(None)) -> str | None:
    """Why the checkpoint in ``folder`` cannot be used, as far as the files ``which`` of its ranks tell; None: it can.

    about: as :func:`about_checkpoint` gives it.
    """
    if isinstance(about, str):
        return about
    return next(filter(None, (why_not(folder / file, kept) for file, kept in list(about["files"].items())[which])), None)


def changes(about: dict, settings: dict[str, str]) -> dict[str, tuple]:
    """{setting: (what it was, what it is)} of those that make a difference."""
    return {key: (about["settings"].get(key), value) for key, value in settings.items()
            if key not in FREE and about["settings"].get(key) != value}


def refuse_another_training(folder: Path, changed: dict[str, tuple]) -> None:
    differ = "; ".join(f"{key} was {before}, is {now}" for key, (before, now) in changed.items() if key in FIXED)
    if differ:
        raise UserError(f"{folder} comes from another training ({differ}); give what it was saved with, or another output=FOLDER")


def why_not(path: Path, kept: dict) -> str | None:
    """What is wrong with a file of a checkpoint; None if it is the one that was written.  kept: as :func:`save_whole` gave it."""
    try:
        found = damage(path, kept, whole=True)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return f"{path} is not the file that was written ({found})" if found else None
