"""The text tables of an IJB folder: found, read and refused with file and row; protocol.py makes the protocols of them."""

import os
import re
import shlex
import warnings
from pathlib import Path

import numpy as np

from utils.errors import UserError

COLUMN_NAMES = {"template": {"template", "templateid", "tid"},
                "subject": {"subject", "subjectid", "sid", "person", "personid", "identity", "identityid"}}


def subset_folder(data: str | Path, subset: str) -> Path:
    """<data>/<subset>, or <data> if that is the subset's folder itself.  UserError if it is neither."""
    folder = Path(data) / subset
    if not folder.is_dir() and (Path(data) / "meta").is_dir():
        folder = Path(data)
    if not (folder / "meta").is_dir() or not (folder / "loose_crop").is_dir():
        raise UserError(f"no {subset} data in {folder}: expected the folders meta and loose_crop in it; "
                        f"give the folder that holds {subset} with -d (reproduce.sh: --ijb)")
    return folder


def meta_file(folder: Path, subset: str, name: str) -> Path:
    """<folder>/meta/<prefix>_<name>; UserError if there is no such file."""
    file = folder / "meta" / f"{subset.lower()}_{name}"
    if not file.is_file():
        raise UserError(f"no file {file}; expected the meta files of insightface's evaluation data, which NIST's {subset} "
                        f"does not have")
    return file


def read_numbers(file: Path, dtype, columns: tuple[int, ...], row: str, **layout) -> np.ndarray:
    """Columns of a text table, [rows, columns].  UserError if a cell is not a number of ``dtype`` or the file is cut short.

    row: the columns in words, for the error; layout: options of np.loadtxt.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")         # "input contained no data": reported below
            warnings.simplefilter("error", DeprecationWarning)          # 1.5 for an id
            table = np.loadtxt(file, dtype, usecols=columns, ndmin=2, comments=None, encoding="utf-8", **layout)
    except (ValueError, IndexError, DeprecationWarning) as error:
        raise UserError(f"{file} cannot be read ({error}); expected rows of {row}") from error
    if not len(table):
        raise UserError(f"{file} is empty; expected rows of {row}")
    with open(file, "rb") as text:
        text.seek(-1, os.SEEK_END)
        if text.read().strip():
            raise UserError(f"{file} is cut short, perhaps inside a number: expected a newline at its end; copy it again "
                            f"(if it is complete, add the newline: echo >> {shlex.quote(str(file))})")
    return table


def read_names(file: Path, rows: int) -> np.ndarray:
    """The first column of a table of ``rows`` rows, str [rows]; UserError if one is not a file inside the images' folder."""
    with open(file, encoding="utf-8-sig") as lines:             # editors on Windows write a byte order mark
        names = [line.split(maxsplit=1)[0] for line in lines if line.strip()]
    if len(names) != rows:
        raise UserError(f"{file} has {len(names)} lines with a name and {rows} with numbers; "
                        f"expected one line per image: write it again")
    for i, name in enumerate(names):
        if name[0] == "/" or "\0" in name or len(name) > 255 or ".." in name and ".." in Path(name).parts:
            raise UserError(f"{file} row {i + 1} names {name[:255]!r}; expected a file inside the folder loose_crop")
    return np.array(names)


def read_people_table(file: Path) -> np.ndarray:
    """A 1:N list, int64 [n, 2]: template id, subject; each template once, although the file may have a row for each image.

    The columns are found by the header's words; without such words they are template, subject.
    """
    with open(file, encoding="utf-8", errors="replace") as lines:
        header = lines.readline(10_000).lstrip("\ufeff")
    if re.match(r"\s*[+-]?\d+\s*,\s*[+-]?\d+\s*(,|$)", header):
        raise UserError(f"{file} begins with {header.strip()[:80]!r}; expected a header, because the first line is skipped")
    table = read_numbers(file, np.int64, columns_of(header, file), "TEMPLATE,SUBJECT,... below a header", delimiter=",",
                         skiprows=1)
    templates, first, inverse = np.unique(table[:, 0], return_index=True, return_inverse=True)
    subjects = table[first, 1]
    conflicts = np.flatnonzero(subjects[inverse] != table[:, 1])
    if len(conflicts):
        template, subject = table[conflicts[0]]
        raise UserError(f"{file}: template {template} belongs to the subjects {subjects[inverse[conflicts[0]]]} "
                        f"and {subject}; expected one")
    return np.stack([templates, subjects], 1)


def columns_of(header: str, file: Path) -> tuple[int, int]:
    """Places of template and subject among the columns.  UserError if the header names one of them and not the other."""
    cells = [re.sub(r"[^a-z]", "", cell.lower()) for cell in header.split(",")]
    places = {kind: [i for i, cell in enumerate(cells) if cell in words] for kind, words in COLUMN_NAMES.items()}
    if not any(places.values()):
        return 0, 1
    if [len(place) for place in places.values()] != [1, 1]:
        raise UserError(f"{file} has the header {header.strip()[:80]!r}; expected one column TEMPLATE_ID and one SUBJECT_ID: "
                        f"correct the header")
    return places["template"][0], places["subject"][0]
