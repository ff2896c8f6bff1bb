"""Feature files: the labels of an evaluation set, and features whose rows belong to them.

labels      <data>/gallery_label.npy [G], <data>/probe_label.npy [Q]: the subject of each feature, ints or text; -1, or as text
            "", "-1", "unknown" or "none": a person of whom nothing is known, different from everybody else
ids         <data>/gallery_id.npy [G], <data>/probe_id.npy [Q], ints or text (optional): then each version's folder has the ids of
            its rows in files of the same names, and rows are matched by id instead of by order
pairs       <data>/pairs.npy int [P, 3]: gallery row, probe row, 1 = same subject (optional, for 1:1)
features    <version>/gallery.npy [G, d], <version>/probe.npy [Q, d]; float, or codes of signed integers
"""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.protocol import Pairs, check_each_once, people_apart
from utils.arrays import open_npy
from utils.errors import UserError
from utils.origin import check_whole, is_ours

UNKNOWN = ("", "-1", "unknown", "none", "nan", "null")      # labels in text of a person of whom nothing is known


@dataclass(frozen=True)
class Labels:
    """Subjects of the rows of both sides."""

    gallery: np.ndarray                 # int64 [G]
    probe: np.ndarray                   # int64 [Q]
    text: np.ndarray | None             # [Q], the probes' labels as they are in the file, if that differs
    ids: tuple[np.ndarray | None, np.ndarray | None]
    notes: tuple[str, ...]


def read_labels(data: Path) -> Labels:
    """The labels in the folder ``data``; UserError if they cannot be used."""
    gallery, probe = (load_names(data / f"{side}_label.npy", "the subject of each feature") for side in ("gallery", "probe"))
    if gallery.dtype.kind != probe.dtype.kind:
        raise UserError(f"{data}: gallery_label.npy holds {gallery.dtype}, probe_label.npy holds {probe.dtype}; expected ints in "
                        f"both or text in both: write them in the same way")
    codes = gallery, probe
    if gallery.dtype.kind == "U":
        names, index = np.unique(np.concatenate(codes), return_inverse=True)
        unknown = np.isin(np.char.lower(np.char.strip(names)), UNKNOWN)
        index = np.where(unknown[index], -1, index)
        codes = index[:len(gallery)], index[len(gallery):]
    (entries, probes), notes = people_apart(*codes, lambda row: str(probe[row]))
    ids = (load_ids(data / "gallery_id.npy", len(gallery), "gallery_label.npy"),
           load_ids(data / "probe_id.npy", len(probe), "probe_label.npy"))
    return Labels(entries, probes, None if np.array_equal(probes, probe) else probe, ids, notes)


def load_names(file: Path, meaning: str) -> np.ndarray:
    """Names of the rows of one side, int64 or str [N]; UserError if the file is not such a list.  meaning: for the error."""
    if not file.is_file():
        raise UserError(f"no file {file}: expected gallery_label.npy and probe_label.npy, {meaning} as an int or as text")
    names = load_npy(file, "a list of ints or of text, one per feature", text=True)
    if names.ndim != 1 or names.dtype.kind not in "iuSU":
        raise UserError(f"{file} holds {names.dtype} {list(names.shape)}; expected a list of ints or of text, one per feature")
    if names.dtype.kind == "u" and names.max() > np.iinfo(np.int64).max:
        raise UserError(f"{file} holds {names.max()}; expected ints below 2^63: write them as text, array.astype(str)")
    if names.dtype.kind == "S":
        try:
            names = np.char.decode(np.asarray(names), "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} holds bytes that are not UTF-8 ({error}); write it with array.astype(str)") from error
    if names.dtype.kind == "U":         # macOS writes an accent as a letter of its own, others do not
        return np.array([unicodedata.normalize("NFC", name) for name in names.tolist()])
    return np.asarray(names, np.int64)


def load_ids(file: Path, rows: int, labels: str) -> np.ndarray | None:
    """Ids of the rows of one side, all different; None if there is no such file.  UserError if they do not fit the labels."""
    if not file.is_file():
        return None
    ids = load_names(file, "an id")
    if len(ids) != rows:
        raise UserError(f"{file} holds {len(ids)} ids; expected {rows}, one for each row of {labels}")
    check_different(ids, file)
    return ids


def check_different(ids: np.ndarray, file: Path) -> None:
    """UserError, with the first one, if an id occurs twice."""
    names, count = np.unique(ids, return_counts=True)
    if len(names) < len(ids):
        raise UserError(f"{file}: the id {names[count.argmax()]} occurs {count.max()} times; expected different ids, "
                        f"because rows are matched by them")


def matching_rows(folder: Path, side: str, expected: np.ndarray | None, count: int) -> np.ndarray | None:
    """Row of each expected id in a version's features of one side, int64; None if rows are matched by their order.

    count: rows of the features.  UserError if one of the two has ids and the other has none, or if ids are missing.
    """
    file = folder / f"{side}_id.npy"
    if expected is None:
        if file.is_file():
            raise UserError(f"{file} names the rows, but the labels have no {side}_id.npy; put one next to {side}_label.npy, or "
                            f"remove {file.name} if the rows of both are in the same order")
        return None
    if not file.is_file():
        raise UserError(f"no file {file}: the labels have {side}_id.npy, so rows are matched by id; write the ids of the rows of "
                        f"{folder}/{side}.npy into it")
    ids = load_names(file, "an id")
    if len(ids) != count:
        raise UserError(f"{file} holds {len(ids)} ids and {side}.npy {count} rows; expected an id for each row")
    if ids.dtype.kind != expected.dtype.kind:
        raise UserError(f"{file} holds {ids.dtype}, {side}_id.npy of the labels {expected.dtype}; expected ints in both or text "
                        f"in both: write them in the same way")
    check_different(ids, file)
    order = np.argsort(ids)
    place = np.searchsorted(ids[order], expected).clip(max=len(ids) - 1)
    missing = expected[ids[order][place] != expected]
    if len(missing):
        raise UserError(f"{file} lacks {len(missing):,} of the {len(expected):,} ids of the labels (first: {missing[0]}); embed "
                        f"these, too, or take them out of the labels")
    return order[place]


def check_kind(array: np.ndarray, file: str | Path) -> None:
    """UserError, which names the way, unless the features are floats or signed integers."""
    if array.dtype.kind == "u":
        raise UserError(f"{file} holds {array.dtype}: codes without a sign have an offset (the zero point, often 128) that must "
                        f"be taken off; write np.load(FILE).astype(np.float32) - OFFSET")
    if array.dtype.kind not in "fi":
        raise UserError(f"{file} holds {array.dtype} {list(array.shape)}; expected float features, or codes of signed integers")


def read_plain_pairs(file: Path, labels: tuple[np.ndarray, np.ndarray]) -> Pairs | None:
    """The pairs in ``file``; None if there is no such file.  UserError if they do not fit the labels of the two sides."""
    if not file.is_file():
        return None
    table = load_npy(file, "rows of gallery row, probe row, 1 or 0")
    sizes = [len(labels[0]), len(labels[1]), 2]
    if table.ndim != 2 or table.shape[1] != 3 or table.dtype.kind not in "iu" or not len(table) \
            or table.min() < 0 or (table.max(0) >= sizes).any():
        raise UserError(f"{file} holds {table.dtype} {list(table.shape)}; expected rows of gallery row, probe row, and 1 (same "
                        f"subject) or 0, as ints from 0 and below {sizes}")
    same = table[:, 2] == 1
    if same.all() or not same.any():
        raise UserError(f"{file}: expected genuine pairs (1) and impostor pairs (0), found only "
                        f"{'genuine' if same.all() else 'impostor'} pairs; make it again with both")
    wrong = np.flatnonzero(same != (labels[0][table[:, 0]] == labels[1][table[:, 1]]))
    if len(wrong):
        gallery_row, probe_row, label = table[wrong[0]]
        raise UserError(f"{file} row {wrong[0]} labels gallery row {gallery_row} and probe row {probe_row} with {label}, but "
                        f"their subjects are {'different' if label else 'the same'}; expected 1 for the same subject and 0 for "
                        f"different ones: make it again")
    check_each_once(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), same, file)
    return Pairs(table[:, 0].astype(np.int32), table[:, 1].astype(np.int32), same)


def load_npy(file: Path, expected: str = "features [N, d]", text: bool = False) -> np.ndarray:
    """A .npy file of numbers (or text), memory-mapped; nothing in it is executed.  UserError if it cannot be read.

    expected: the contents in words, for the error.
    """
    try:
        array = open_npy(file, text=text)
    except ValueError as error:
        hint = "; text is written with array.astype(str)" if text else ""
        raise UserError(f"{file} is not a complete .npy file of numbers ({error}); expected {expected}{hint}") from error
    if is_ours(file):
        check_whole(file, "the command that wrote it", whole=False)
    return array
