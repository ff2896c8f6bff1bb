"""Arrays with an origin: next to each .npy a .json says what it was computed from, and keeps its checksums."""

import json
from pathlib import Path

import numpy as np

from utils.arrays import open_npy
from utils.errors import UserError
from utils.files import checksums, damage, write_text, written_beside


def save_array(path: Path, array: np.ndarray, origin: dict) -> None:
    """Write ``array`` and its origin beside, each whole or not at all."""
    with written_beside(path) as part, open(part, "wb") as file:
        np.save(file, array)
    save_origin(path, origin)       # after the array: a stop in between leaves a mismatch, never a false match


def save_origin(path: Path, origin: dict, part: Path | None = None) -> None:
    """Write the .json beside ``path``: what it was computed from, and the checksums of the file as it is now.

    part: the file that will get this name next.
    """
    write_text(path.with_suffix(".json"), json.dumps(origin | checksums(part or path), indent=1) + "\n")


def load_array(path: Path, made_by: str, whole: bool = False) -> np.ndarray:
    """The array of a .npy, memory-mapped: its rows are shared by all processes of a machine and read on demand.

    ``made_by``: the command that makes the file, for the message when it is missing or torn.  whole: compare the checksum
    of every byte (0.6 s per GB), not only that of 16 MiB.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; make it with: {made_by}")
    try:
        array = open_npy(path)
    except ValueError as error:
        raise UserError(f"{path} is not a whole .npy file ({error}); make it again with: {made_by}") from error
    check_whole(path, made_by, whole)
    return array


def check_whole(path: Path, made_by: str, whole: bool) -> None:
    """Refuse ``path`` when it is not the file whose checksums are kept beside it."""
    found = damage(path, load_origin(path), whole)
    if found:
        raise UserError(f"{path} is damaged, or not the file that {path.with_suffix('.json').name} beside it describes "
                        f"({found}); make it again with: {made_by}")


def load_origin(path: Path) -> dict:
    """The origin beside a .npy: model, records, images, dim, checksums; empty when there is none (a file made elsewhere)."""
    file = path.with_suffix(".json")
    try:
        origin = json.loads(file.read_text()) if file.is_file() else {}
        if not isinstance(origin, dict):
            raise ValueError(f"{type(origin).__name__} instead of names and values")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no description of {path.name} ({error}); make {path.name} again or remove "
                        f"{file.name}") from error
    return origin


def is_ours(path: Path) -> bool:
    """Whether the .json beside ``path`` is one of these; in other people's folders it may be anything."""
    try:
        return "sha256" in load_origin(path)
    except UserError:
        return False


def check_origin(path: Path, made_by: str, **expected) -> None:
    """Refuse ``path`` when its origin names another model or other records than ``expected``; None is not compared."""
    origin = load_origin(path)
    for what, value in expected.items():
        found = origin.get(what)
        if None not in (value, found) and found != value:
            raise UserError(f"{path} was computed from a different {what} ({what} fingerprint {short(found)}, expected "
                            f"{short(value)}), or that or {path.with_suffix('.json').name} has been damaged since; make it again "
                            f"with: {made_by}")


def short(fingerprint) -> str:
    return str(fingerprint)[:12]


def describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
