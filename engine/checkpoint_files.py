"""Checkpoints on the disk: which exist, whether they are intact, and which training wrote them."""

import json
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.files import damage

# Settings that make another training, and settings that may change when a run resumes.
FIXED = {"records", "rec (contents)", "rec labels (contents)", "method", "head", "optimizer", "seed"}
FREE = {"name", "resume", "save_every", "keep_checkpoints", "frequent", "verbose", "timeout", "val_targets"}


@dataclass(frozen=True)
class Position:
    """How far a run is.  epoch: 0-based; images: those of this epoch that all ranks together have seen."""

    epoch: int = 0
    images: int = 0


def names_in(folder: Path) -> list[str]:
    """Names of the checkpoint folders in ``folder``, incomplete ones among them."""
    return [path.name for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def last_words(output: Path) -> str:
    """A sentence for errors: which checkpoint the run can resume from."""
    names = [name for name, about in found_in(output / "checkpoints").items() if not isinstance(about, str)]
    if not names:
        return "there was no checkpoint yet"
    return f"{output / 'checkpoints' / max(names, key=int)} is the last good checkpoint"


def found_in(folder: Path) -> dict[str, dict | str]:
    """{name: contents of complete.json, or what is wrong with it} of the checkpoints in ``folder``."""
    return {name: about_checkpoint(folder / name) for name in names_in(folder) if (folder / name / "complete.json").is_file()}


def about_checkpoint(folder: Path) -> dict | str:
    """Contents of complete.json in ``folder``, or what is wrong with it."""
    path = folder / "complete.json"
    try:
        about = json.loads(path.read_text())
        good = is_complete(about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    return about if good else f"{path} is corrupt or was not written by this project"


def is_complete(about: dict) -> bool:
    numbers = [about[key] for key in ("epoch", "images", "world_size")]
    ranks = enumerate(about["files"].items())
    return (all(isinstance(number, int) for number in numbers) and len(about["files"]) == about["world_size"] > 0
            and all(name == f"rank_{r}.pt" and {"bytes", "sha256"} <= file.keys() for r, (name, file) in ranks)
            and isinstance(about["settings"], dict))


def problem_of(folder: Path, about: dict | str, which: slice = slice(None)) -> str | None:
    """Why the checkpoint in ``folder`` cannot be used, judged by the files ``which`` of its ranks; None if it can.

    about: of :func:`about_checkpoint`.
    """
    if isinstance(about, str):
        return about
    return next(filter(None, (why_not(folder / file, kept) for file, kept in list(about["files"].items())[which])), None)


def changes(about: dict, settings: dict[str, str]) -> dict[str, tuple]:
    """{setting: (its value in the checkpoint, its value now)} of the settings that differ and matter."""
    return {key: (about["settings"].get(key), value) for key, value in settings.items()
            if key not in FREE and about["settings"].get(key) != value}


def refuse_another_training(folder: Path, changed: dict[str, tuple]) -> None:
    """Raise :class:`UserError` if one of ``changed`` (of :func:`changes`) makes it another training."""
    different = "; ".join(f"{key} was {before}, is {now}" for key, (before, now) in changed.items() if key in FIXED)
    if different:
        raise UserError(f"{folder} is of another training ({different}); give the settings it was saved with, or another "
                        f"output=FOLDER")


def why_not(path: Path, kept: dict) -> str | None:
    """What is wrong with a file of a checkpoint; None if it is the file that was written.  kept: its bytes and sha256."""
    try:
        difference = damage(path, kept, whole=True)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return f"{path} is not the file that was written ({difference})" if difference else None
