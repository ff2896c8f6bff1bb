"""Vectors with ids, as services and vector stores export them: read, and brought into the order of an image list.

    FILE.npy        [n, d], with a text file of n ids
    FILE.npz        one array [n, d] of numbers and one of n ids
    FILE.csv, .tsv  the id, then d numbers or one cell "[0.1, 0.2, ...]"; a first line of names is optional
    FILE.parquet    one column of lists and one column of ids (needs pyarrow)
"""

import csv
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from old_model.features import ROWS_LOOKED_AT, refuse_codes
from utils.arrays import one_line, open_npy, read_npz
from utils.errors import UserError
from utils.files import read_lines

EXAMPLES = 5        # names in a message


@dataclass(frozen=True)
class Vectors:
    """values: float [n, d], maybe memory-mapped; ids: n texts."""

    values: np.ndarray
    ids: list[str]


@dataclass(frozen=True)
class Match:
    """Which vector belongs to which image.

    key: what of the ids was compared, in words.  rows: int64 [images], the vector of each image, -1: none.
    unused: vectors of no image.
    """

    key: str
    rows: np.ndarray
    unused: int


def read_vectors(file: Path, ids: Path | None) -> Vectors:
    """The vectors in ``file``; ids: the text file of a .npy.  UserError if they are not vectors with one id each."""
    readers = {".npy": read_array, ".npz": read_archive, ".csv": read_table, ".tsv": read_table, ".parquet": read_parquet}
    suffix = file.suffix.lower()
    if suffix not in readers:
        raise UserError(f"{file}: expected vectors as {', '.join(readers)}")
    if not file.is_file():
        raise UserError(f"no file {file}; expected vectors with ids")
    if (ids is not None) != (suffix == ".npy"):
        raise UserError(f"{file}: a .npy needs --ids FILE.txt, one id a line; the other kinds have their own ids")
    try:
        values, names = readers[suffix](file, ids) if ids else readers[suffix](file)        # type: ignore[operator]
    except (ValueError, OSError, KeyError, csv.Error, zipfile.BadZipFile) as error:
        raise UserError(f"{file} does not hold vectors with ids ({one_line(error)}); export it again") from error
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise UserError(f"{file} holds {values.dtype} {list(values.shape)}; expected vectors [n, d] of floats")
    if len(values) != len(names):
        raise UserError(f"{file} has {len(values)} vectors and {len(names)} ids; expected one id for each vector")
    empty = sum(not name for name in names)
    if empty:
        raise UserError(f"{empty} of the {len(names)} ids of {ids or file} are empty; give each vector an id")
    refuse_codes(file, values, "the old model")
    refuse_labels(file, values)
    return Vectors(values, [cleaned(name) for name in names])


def refuse_labels(file: Path, values: np.ndarray) -> None:
    """UserError if one column of the vectors holds whole numbers only and others do not: it would change all angles."""
    some = np.asarray(values[np.linspace(0, len(values) - 1, min(len(values), ROWS_LOOKED_AT)).astype(np.int64)])
    columns = np.flatnonzero((some == np.floor(some)).all(0) & some.any(0))
    if len(columns):
        column = some[:, columns[0]]
        raise UserError(f"column {columns[0] + 1} of the {values.shape[1]} numbers of each vector in {file} holds whole numbers, "
                        f"from {column.min():g} to {column.max():g}, and others do not: it is a label or the number of a row; "
                        f"export only the id and the vector")


def cleaned(name: str) -> str:
    """An id with forward slashes, composed letters and without a leading ./"""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")


def read_array(file: Path, ids: Path) -> tuple[np.ndarray, list[str]]:
    return open_npy(file), read_lines(ids)


def read_archive(file: Path) -> tuple[np.ndarray, list[str]]:
    with zipfile.ZipFile(file) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    arrays = read_npz(file, names)
    vectors = [array for array in arrays.values() if array.ndim == 2]
    ids = [array for array in arrays.values() if array.ndim == 1]
    if len(vectors) != 1 or len(ids) != 1:
        raise ValueError(f"expected one array [n, d] and one of n ids, found "
                         f"{', '.join(f'{name} {list(array.shape)}' for name, array in arrays.items())}")
    return vectors[0], [str(name) for name in ids[0]]


def read_table(file: Path) -> tuple[np.ndarray, list[str]]:
    with open(file, newline="", encoding="utf-8-sig") as lines:
        rows = [row for row in csv.reader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",") if row]
    if rows and not any(cell.startswith("[") or is_numbers(["", cell]) for cell in rows[0][1:]):        # a line of names
        rows = rows[1:]
    wrong = next((row for row in rows if not is_numbers(row) or len(row) != len(rows[0])), None)
    if not rows or wrong is not None:
        raise ValueError(f"expected an id and the same number of numbers in each row, found {str(wrong or 'no row')[:80]}")
    cells = [row[1].strip("[] ").split(",") if row[1].startswith("[") else row[1:] for row in rows]
    return np.array(cells, np.float32), [row[0] for row in rows]


def is_numbers(row: list[str]) -> bool:
    """Whether a row of a table is an id and numbers."""
    try:
        return len([float(cell) for cell in (row[1].strip("[] ").split(",") if row[1].startswith("[") else row[1:])]) > 0
    except (ValueError, IndexError):
        return False


def read_parquet(file: Path) -> tuple[np.ndarray, list[str]]:
    try:
        from pyarrow import lib, parquet, types
    except ImportError as error:
        raise UserError(f"{file} needs pyarrow, which is not installed; pip install pyarrow, or export the vectors as .npz or "
                        f".csv") from error
    try:
        table = parquet.read_table(file)
    except (lib.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error
    lists = [column for column in table.columns if types.is_list(column.type) or types.is_fixed_size_list(column.type)
             or types.is_large_list(column.type)]
    ids = [column for column in table.columns if types.is_string(column.type) or types.is_large_string(column.type)]
    ids = ids or [column for column in table.columns if types.is_integer(column.type)]
    if len(lists) != 1 or len(ids) != 1:
        raise ValueError(f"expected one column of lists and one of ids, found {', '.join(map(str, table.schema))}")
    return np.array(lists[0].to_pylist(), np.float32), [str(name) for name in ids[0].to_pylist()]


def without_ending(name: str) -> str:
    head, slash, last = name.rpartition("/")
    return head + slash + (last.rpartition(".")[0] or last)


# What of a path is compared with what of an id, the most exact first.
KEYS: dict[str, Callable[[str], str]] = {
    "the path": lambda name: name,
    "the path without its ending": without_ending,
    "the last two parts of the path": lambda name: "/".join(name.split("/")[-2:]),
    "the last two parts of the path without its ending": lambda name: without_ending("/".join(name.split("/")[-2:])),
    "the file name": lambda name: name.split("/")[-1],
    "the file name without its ending": lambda name: without_ending(name.split("/")[-1]),
}


def match(ids: list[str], paths: list[str], source: Path) -> Match:
    """The vector of each image.  ids: of the vectors; paths: of the images; source: of the vectors, for messages.

    The part of the path by which most images have a vector is compared.  UserError if no image has one, or if an image could
    have two or a vector could belong to two images.
    """
    paths = [cleaned(path) for path in paths]
    counts = {name: len({key(path) for path in paths} & {key(entry) for entry in ids}) for name, key in KEYS.items()}
    best = max(counts, key=lambda name: counts[name])
    if not counts[best]:
        raise UserError(f"no id of {source} is the path or the file name of an image; the ids begin with "
                        f"{', '.join(ids[:2])}, the paths with {', '.join(paths[:2])}")
    key = KEYS[best]
    wanted, given = [key(path) for path in paths], [key(entry) for entry in ids]
    for names, what in ((given, f"vectors of {source}"), (wanted, "images")):
        double = [name for name, count in Counter(names).items() if count > 1 and name in set(wanted) & set(given)]
        if double:
            raise UserError(f"{len(double)} ids belong to several {what}, compared by {best} (first: {double[0]}); expected each "
                            f"id once: remove the others, or export full paths as ids. The ids begin with {', '.join(ids[:2])}, "
                            f"the paths of the images with {', '.join(paths[:2])}: are they of the same images?")
    place = {name: row for row, name in enumerate(given)}
    rows = np.array([place.get(name, -1) for name in wanted], np.int64)
    return Match(best, rows, len(ids) - int((rows >= 0).sum()))
