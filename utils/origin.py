"""Arrays with an origin: next to each .npy, a .json with what the array was computed from and the checksums of the .npy."""

import json
from pathlib import Path

import numpy as np

from utils.arrays import open_npy
from utils.errors import UserError
from utils.files import checksums, damage, write_text, written_beside


def save_array(path: Path, array: np.ndarray, origin: dict) -> None:
    """Write ``array`` and its origin.  Each file is whole or as it was before; UserError if the disk is full."""
    with written_beside(path) as part, open(part, "wb") as file:
        np.save(file, array)
    save_origin(path, origin)       # after the array: a stop in between leaves a mismatch, never a false match


def save_origin(path: Path, origin: dict, part: Path | None = None) -> None:
    """Write the .json next to ``path``: ``origin``, and the checksums of the file as it is now.

    part: the file whose checksums are meant, if it will be renamed to ``path`` later.
    """
    write_text(path.with_suffix(".json"), json.dumps(origin | checksums(part or path), indent=1) + "\n")


def load_array(path: Path, made_by: str, whole: bool = False) -> np.ndarray:
    """The array of a .npy, memory-mapped: all processes of a machine share its rows, which are read on demand.

    made_by: the command that makes the file.  whole: compare the checksum of every byte (0.6 s per GB), not only of 16 MiB.
    UserError if the file is missing, corrupt, or not the one that its .json describes.
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
    """UserError if ``path`` is not the file whose checksums are in its .json; whole: compare every byte."""
    problem = damage(path, load_origin(path), whole)
    if problem:
        raise UserError(f"{path} is corrupt, or not the file that {path.with_suffix('.json').name} describes ({problem}); make "
                        f"it again with: {made_by}")


def load_origin(path: Path) -> dict:
    """The origin of a .npy: model, records, images, dim, checksums; empty if it has none (a file made elsewhere).

    UserError if the .json is corrupt.
    """
    file = path.with_suffix(".json")
    try:
        origin = json.loads(file.read_text()) if file.is_file() else {}
        if not isinstance(origin, dict):
            raise ValueError(f"{type(origin).__name__} instead of names and values")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not a description of {path.name} ({error}); make {path.name} again or remove "
                        f"{file.name}") from error
    return origin


def is_ours(path: Path) -> bool:
    """Whether this project wrote the .json next to ``path``; in other people's folders it can be anything."""
    try:
        return "sha256" in load_origin(path)
    except UserError:
        return False


def check_origin(path: Path, made_by: str, **expected) -> None:
    """UserError if the origin of ``path`` has other values than ``expected`` (model, records ...); None is not compared."""
    origin = load_origin(path)
    for what, value in expected.items():
        actual = origin.get(what)
        if None not in (value, actual) and actual != value:
            raise UserError(f"{path} was computed from a different {what} ({what} fingerprint {short(actual)}, expected "
                            f"{short(value)}), or the {what} or {path.with_suffix('.json').name} is corrupt; make {path.name} "
                            f"again with: {made_by}")


def short(fingerprint) -> str:
    """Enough of a fingerprint to tell two apart."""
    return str(fingerprint)[:12]


def describe(array: np.ndarray) -> str:
    """Type and shape, for messages."""
    return f"{array.dtype} {list(array.shape)}"
