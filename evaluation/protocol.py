"""IJB-C and IJB-B in insightface's layout: loosely cropped images, templates, 1:1 pairs, 1:N lists.

    <data>/IJBC/loose_crop/*.jpg
    <data>/IJBC/meta/ijbc_face_tid_mid.txt            NAME TEMPLATE MEDIUM            one row per image
    <data>/IJBC/meta/ijbc_name_5pts_score.txt         NAME x1 y1 ... x5 y5 SCORE      same images, same order
    <data>/IJBC/meta/ijbc_template_pair_label.txt     ENROL VERIFY {0|1}              1 = same person
    <data>/IJBC/meta/ijbc_1N_{gallery_G1,gallery_G2,probe_mixed}.csv      header, then TEMPLATE,SUBJECT,...

IJB-B has the prefix ijbb_ and the galleries S1 and S2. In the program a template is given by its *row*, the rank of its id
among all template ids.
"""

import hashlib
import os
import re
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError

GALLERIES = {"IJBC": ("G1", "G2"), "IJBB": ("S1", "S2")}
TEMPLATE_ID_LIMIT = 100_000_000 # template ids are below this


@dataclass(frozen=True)
class Images:
    """All N images of a subset, which show T templates."""

    folder: Path                # folder of the image files
    names: np.ndarray           # str [N]
    landmarks: np.ndarray       # float32 [N, 5, 2], x and y in pixels: eyes, nose, corners of the mouth
    scores: np.ndarray          # float32 [N], the face detector's score
    templates: np.ndarray       # int32 [N], row of the image's template
    media: np.ndarray           # int64 [N], id of the image's photograph or video
    template_ids: np.ndarray    # int64 [T], ascending
    meta: str                   # sha256 of the landmark file

    def __len__(self) -> int:
        return len(self.names)

    def sizes(self) -> np.ndarray:
        """Size of each image file, int64 [N] bytes.  UserError if one is missing, before hours are spent on embedding."""
        folder, sizes = str(self.folder), np.empty(len(self), np.int64)
        for i, name in enumerate(self.names):
            try:
                sizes[i] = os.stat(f"{folder}/{name}").st_size
            except OSError as error:
                raise UserError(f"image {folder}/{name} cannot be read ({error.strerror}), but row {i + 1} of the landmark file "
                                f"names it; restore it") from error
        return sizes

    def fingerprint(self) -> str:
        """sha256 over the landmark file (names, landmarks, scores) and the sizes of the image files."""
        return hashlib.sha256(self.meta.encode() + self.sizes().tobytes()).hexdigest()


@dataclass(frozen=True)
class Pairs:
    """The 1:1 protocol: P pairs of templates."""

    enrol: np.ndarray           # int32 [P], rows of the gallery-side templates: the old model's in a cross test
    verify: np.ndarray          # int32 [P], rows of the query-side templates: always the new model's
    same: np.ndarray            # bool [P], True: genuine pair, one subject; False: impostor pair, two subjects

    def __str__(self) -> str:
        return f"{len(self.same)} pairs, {self.same.sum()} of them genuine"


@dataclass(frozen=True)
class People:
    """Templates, each with its subject."""

    templates: np.ndarray       # int32 [n], template rows
    subjects: np.ndarray        # int64 [n], subject ids

    def by_subject(self) -> "People":
        """The same templates in the order of their subjects."""
        order = np.argsort(self.subjects, kind="stable")
        return People(self.templates[order], self.subjects[order])

    def __add__(self, other: "People") -> "People":
        return People(np.concatenate([self.templates, other.templates]), np.concatenate([self.subjects, other.subjects]))


@dataclass(frozen=True)
class Search:
    """The 1:N protocol: every probe is searched in each gallery."""

    galleries: dict[str, People]
    probes: People

    def __str__(self) -> str:
        sizes = [f"{len(people.templates)} in gallery {name}" for name, people in self.galleries.items()]
        return f"{len(self.probes.templates)} probes, {', '.join(sizes)}"


def subset_folder(data: str | Path, subset: str) -> Path:
    """<data>/<subset>, or <data> if that is the subset's folder itself.  UserError if it is neither."""
    folder = Path(data) / subset
    if not folder.is_dir() and (Path(data) / "meta").is_dir():
        folder = Path(data)
    if not (folder / "meta").is_dir() or not (folder / "loose_crop").is_dir():
        raise UserError(f"no {subset} data in {folder}: expected the folders meta and loose_crop in it; "
                        f"give the folder that holds {subset} with -d (reproduce.sh: --ijb)")
    return folder


def read_images(data: str | Path, subset: str) -> Images:
    """The images of ``subset`` ("IJBC" or "IJBB") in the folder ``data``.

    UserError, with file and row, if a meta file is missing or cannot be read, or if the two lists differ.
    """
    folder = subset_folder(data, subset)
    template_file, faces = (meta_file(folder, subset, name) for name in ("face_tid_mid.txt", "name_5pts_score.txt"))
    template, media = read_numbers(template_file, np.int64, (1, 2), "NAME TEMPLATE MEDIUM").T
    numbers = read_numbers(faces, np.float32, tuple(range(1, 12)), "NAME, ten coordinates and SCORE")
    text = faces.read_bytes()
    names, listed = (read_names(file, len(table)) for file, table in ((faces, numbers), (template_file, template)))
    if len(template) != len(names):
        raise UserError(f"{faces} has {len(names)} rows, {template_file.name} has {len(template)}; "
                        f"expected the same images in the same order in both")
    for i in np.flatnonzero(names != listed):
        if Path(names[i]).name != Path(listed[i]).name:         # the folder in front may differ: the landmark file's counts
            raise UserError(f"row {i + 1} is {names[i]} in {faces}, {listed[i]} in {template_file.name}; expected the same "
                            f"images in the same order in both")
    if not np.isfinite(numbers).all():
        raise UserError(f"{faces} row {np.flatnonzero(~np.isfinite(numbers).all(1))[0] + 1}: "
                        f"expected finite landmarks and score")
    if template.min() < 0 or template.max() >= TEMPLATE_ID_LIMIT:
        raise UserError(f"{template_file}: expected template ids in [0, {TEMPLATE_ID_LIMIT}), "
                        f"found {template.min()} to {template.max()}")
    template_ids, templates = np.unique(template, return_inverse=True)
    return Images(folder / "loose_crop", names, numbers[:, :10].reshape(-1, 5, 2), numbers[:, 10],
                  templates.astype(np.int32), media, template_ids, hashlib.sha256(text).hexdigest())


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


def read_pairs(data: str | Path, subset: str, images: Images) -> Pairs:
    """The pairs of the 1:1 protocol, in the order of the file.  UserError if the file cannot be used."""
    file = meta_file(subset_folder(data, subset), subset, "template_pair_label.txt")
    table = read_numbers(file, np.int32, (0, 1, 2), "ENROL VERIFY {0|1}")
    same = table[:, 2] == 1
    if not ((table[:, 2] == 0) | same).all() or same.all() or not same.any():
        raise UserError(f"{file}: expected pairs labelled 1 (same person) and pairs labelled 0, "
                        f"found the labels {np.unique(table[:, 2])[:5].tolist()}")
    return Pairs(rows_of(table[:, 0], images, file), rows_of(table[:, 1], images, file), same)


def read_search(data: str | Path, subset: str, images: Images) -> Search:
    """The galleries and probes of the 1:N protocol.  UserError if a list cannot be used."""
    folder = subset_folder(data, subset)
    galleries = {name: read_people(meta_file(folder, subset, f"1N_gallery_{name}.csv"), images)
                 for name in GALLERIES[subset]}
    return Search(galleries, read_people(meta_file(folder, subset, "1N_probe_mixed.csv"), images))


def read_people(file: Path, images: Images) -> People:
    """Templates of a 1:N list, each once, although the file may have a row for each of their images."""
    with open(file, encoding="utf-8", errors="replace") as lines:
        header = lines.readline(10_000)
    if re.match(r"\s*[+-]?\d+\s*,\s*[+-]?\d+\s*(,|$)", header):
        raise UserError(f"{file} begins with {header.strip()[:80]!r}; expected a header, because the first line is skipped")
    table = read_numbers(file, np.int64, (0, 1), "TEMPLATE,SUBJECT,... below a header", delimiter=",",
                         skiprows=1)
    templates, first, inverse = np.unique(table[:, 0], return_index=True, return_inverse=True)
    subjects = table[first, 1]
    conflicts = np.flatnonzero(subjects[inverse] != table[:, 1])
    if len(conflicts):
        template, subject = table[conflicts[0]]
        raise UserError(f"{file}: template {template} belongs to the subjects {subjects[inverse[conflicts[0]]]} "
                        f"and {subject}; expected one")
    return People(rows_of(templates, images, file), subjects)


def rows_of(ids: np.ndarray, images: Images, file: Path) -> np.ndarray:
    """Rows of the templates with these ids, int32.  UserError if a template has no image; ``file`` is named in it."""
    known = images.template_ids
    if known[-1] < max(len(ids), 16 * len(known)):      # a table, if it is not larger than the lists
        table = np.zeros(known[-1] + 1, np.int32)
        table[known] = np.arange(len(known), dtype=np.int32)
        rows = table[np.clip(ids, 0, known[-1])]
    else:
        rows = np.minimum(np.searchsorted(known, ids), len(known) - 1).astype(np.int32)
    wrong = known[rows] != ids
    if wrong.any():
        raise UserError(f"{file}: template {ids[wrong.argmax()]} has no image in face_tid_mid.txt")
    return rows


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
