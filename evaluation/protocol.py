"""IJB-C and IJB-B in insightface's layout: loosely cropped images, templates, 1:1 pairs, 1:N lists.

    <data>/IJBC/loose_crop/*.jpg
    <data>/IJBC/meta/ijbc_face_tid_mid.txt            NAME TEMPLATE MEDIUM            one row per image
    <data>/IJBC/meta/ijbc_name_5pts_score.txt         NAME x1 y1 ... x5 y5 SCORE      same images, same order
    <data>/IJBC/meta/ijbc_template_pair_label.txt     ENROL VERIFY {0|1}              1 = same person
    <data>/IJBC/meta/ijbc_1N_{gallery_G1,gallery_G2,probe_mixed}.csv      header, then TEMPLATE,SUBJECT,... in its order

IJB-B has the prefix ijbb_ and the galleries S1 and S2. In the program a template is given by its *row*, the rank of its id
among all template ids.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.meta_files import meta_file, read_names, read_numbers, read_people_table, subset_folder
from utils.errors import UserError

GALLERIES = {"IJBC": ("G1", "G2"), "IJBB": ("S1", "S2")}
TEMPLATE_ID_LIMIT = 100_000_000 # template ids are below this
MIN_ONE_LABEL = 10              # non-mated probes: if that many, and more than half of all, have one label, it means "unknown"
MAX_REPEATED = 0.1              # share of the pairs that may be in the file again: pairs drawn at random are, now and then


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

    @property
    def missing(self) -> np.ndarray:
        """Which templates have no image (only if they are counted), bool [T]."""
        return np.bincount(self.templates, minlength=len(self.template_ids)) == 0

    def file_versions(self) -> np.ndarray:
        """Size and time of the last change of each image file, int64 [N, 2] in bytes and ns.

        UserError if one is missing, before hours are spent on embedding.
        """
        folder, versions = str(self.folder), np.empty((len(self), 2), np.int64)
        for i, name in enumerate(self.names):
            try:
                about = os.stat(f"{folder}/{name}")
                versions[i] = about.st_size, about.st_mtime_ns
            except OSError as error:
                raise UserError(f"image {folder}/{name} cannot be read ({error.strerror}), but row {i + 1} of the landmark file "
                                f"names it; restore it") from error
        return versions

    def fingerprint(self) -> str:
        """sha256 over the landmark file (names, landmarks, scores), and sizes and times of the image files.

        Of files of one size, as BMP or PGM of all crops, only the time tells that they were replaced.
        """
        return hashlib.sha256(self.meta.encode() + self.file_versions().tobytes()).hexdigest()


@dataclass(frozen=True)
class Pairs:
    """The 1:1 protocol: P pairs of templates."""

    enrol: np.ndarray           # int32 [P], rows of the gallery-side templates: the old model's in a cross test
    verify: np.ndarray          # int32 [P], rows of the query-side templates: always the new model's
    same: np.ndarray            # bool [P], True: genuine pair, one subject; False: impostor pair, two subjects
    never: np.ndarray | None = None     # bool [P], pairs that are never matched, because a template has no image; None: no such

    def chosen(self, rows: np.ndarray) -> "Pairs":
        """Some of the pairs.  rows: a mask."""
        return Pairs(self.enrol[rows], self.verify[rows], self.same[rows], None if self.never is None else self.never[rows])

    def __str__(self) -> str:
        return f"{len(self.same)} pairs, {self.same.sum()} of them genuine"


@dataclass(frozen=True)
class People:
    """Templates, each with its subject."""

    templates: np.ndarray       # int32 [n], template rows
    subjects: np.ndarray        # int64 [n], subject ids
    never: np.ndarray | None = None     # bool [n], templates that are never matched, because they have no image; None: no such

    def chosen(self, rows: np.ndarray) -> "People":
        """Some of the templates.  rows: their numbers or a mask."""
        return People(self.templates[rows], self.subjects[rows], None if self.never is None else self.never[rows])

    def by_subject(self) -> "People":
        """The same templates in the order of their subjects."""
        return self.chosen(np.argsort(self.subjects, kind="stable"))

    def with_images(self) -> "People":
        """The templates that have an image."""
        return self if self.never is None else People(self.templates[~self.never], self.subjects[~self.never])

    def __add__(self, other: "People") -> "People":
        never = [people.never if people.never is not None else np.zeros(len(people.subjects), bool) for people in (self, other)]
        return People(np.concatenate([self.templates, other.templates]), np.concatenate([self.subjects, other.subjects]),
                      None if self.never is None and other.never is None else np.concatenate(never))


@dataclass(frozen=True)
class Search:
    """The 1:N protocol: every probe is searched in each gallery."""

    galleries: dict[str, People]
    probes: People
    notes: tuple[str, ...] = ()     # what was assumed about the lists, as sentences without a full stop

    def __str__(self) -> str:
        sizes = [f"{len(people.templates)} in gallery {name}" for name, people in self.galleries.items()]
        return f"{len(self.probes.templates)} probes, {', '.join(sizes)}"


def read_images(data: str | Path, subset: str, count_missing: bool = False) -> Images:
    """The images of ``subset`` ("IJBC" or "IJBB") in the folder ``data``.

    count_missing: templates that a list of the protocols names but that have no image are templates, too (they are never
    matched); otherwise the readers of the protocols refuse them.
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
    check_scores(numbers[:, 10], names, faces)
    if template.min() < 0 or template.max() >= TEMPLATE_ID_LIMIT:
        raise UserError(f"{template_file}: expected template ids in [0, {TEMPLATE_ID_LIMIT}), "
                        f"found {template.min()} to {template.max()}")
    template_ids = np.unique(template)
    if count_missing:
        listed_ids = template_ids_of_lists(folder, subset)
        template_ids = np.union1d(template_ids, listed_ids[(listed_ids >= 0) & (listed_ids < TEMPLATE_ID_LIMIT)])
    templates = np.searchsorted(template_ids, template)
    return Images(folder / "loose_crop", names, numbers[:, :10].reshape(-1, 5, 2), numbers[:, 10],
                  templates.astype(np.int32), media, template_ids, hashlib.sha256(text).hexdigest())


def check_scores(scores: np.ndarray, names: np.ndarray, file: Path) -> None:
    """UserError if a detector score [N] is 0 or below: it would remove the image's direction or turn it round."""
    wrong = np.flatnonzero(scores <= 0)
    if len(wrong):
        raise UserError(f"{file}: {len(wrong):,} images have a detector score of 0 or below, as if no face was detected "
                        f"(first: {names[wrong[0]]} with {scores[wrong[0]]:g}); leave these images out of both lists, or set a "
                        f"positive score (1 for all images if you have no detector)")


def template_ids_of_lists(folder: Path, subset: str) -> np.ndarray:
    """Ids of all templates that the pairs and the 1:N lists name, ascending."""
    pairs = read_pair_table(folder, subset)[:, :2]
    lists = [read_people_table(meta_file(folder, subset, f"1N_{name}.csv"))[:, 0]
             for name in (*(f"gallery_{name}" for name in GALLERIES[subset]), "probe_mixed")]
    return np.unique(np.concatenate([np.unique(pairs), *lists]))


def read_pairs(data: str | Path, subset: str, images: Images) -> Pairs:
    """The pairs of the 1:1 protocol, in the order of the file.  UserError if the file cannot be used."""
    folder = subset_folder(data, subset)
    table = read_pair_table(folder, subset)
    check_known([table[:, 0], table[:, 1]], images, meta_file(folder, subset, "template_pair_label.txt"))
    enrol, verify = (rows_of(column, images) for column in (table[:, 0], table[:, 1]))
    check_each_once(enrol, verify, table[:, 2], meta_file(folder, subset, "template_pair_label.txt"))
    same, missing = table[:, 2] == 1, images.missing
    if not missing.any():
        return Pairs(enrol, verify, same)
    never = missing[enrol] | missing[verify]
    return Pairs(enrol, verify, same, never).chosen(same | ~never)      # who is never matched is no false accept


def check_each_once(enrol: np.ndarray, verify: np.ndarray, same: np.ndarray, file: Path) -> None:
    """UserError if a pair is labelled both 1 and 0, or if more than MAX_REPEATED of the pairs are in the file again.

    Pairs that are in it ten times would seem to support a FAR ten times smaller than they do.  enrol, verify: rows; same: 1 or 0.
    """
    pairs = np.sort((enrol.astype(np.int64) * (int(verify.max()) + 1) + verify) * 2 + same)
    again = pairs[1:] >> 1 == pairs[:-1] >> 1
    both = again & (pairs[1:] != pairs[:-1])
    if both.any():
        raise UserError(f"{file}: {both.sum():,} pairs are labelled both 1 (same person) and 0; expected one label for each: "
                        f"make it again")
    if again.sum() > MAX_REPEATED * len(pairs):
        raise UserError(f"{file}: {again.sum():,} of {len(pairs):,} rows are pairs that were there before, which seem to support "
                        f"a smaller FAR than they do; expected each pair once: remove the repeated rows")


def read_pair_table(folder: Path, subset: str) -> np.ndarray:
    """The file of pairs, int32 [P, 3]: template ids, and 1 for the same person."""
    file = meta_file(folder, subset, "template_pair_label.txt")
    table = read_numbers(file, np.int32, (0, 1, 2), "ENROL VERIFY {0|1}")
    same = table[:, 2] == 1
    if not ((table[:, 2] == 0) | same).all() or same.all() or not same.any():
        raise UserError(f"{file}: expected pairs labelled 1 (same person) and pairs labelled 0, "
                        f"found the labels {np.unique(table[:, 2])[:5].tolist()}")
    return table


def read_search(data: str | Path, subset: str, images: Images) -> Search:
    """The galleries and probes of the 1:N protocol.  UserError if a list cannot be used."""
    folder = subset_folder(data, subset)
    lists = [f"gallery_{name}" for name in GALLERIES[subset]] + ["probe_mixed"]
    files = [meta_file(folder, subset, f"1N_{name}.csv") for name in lists]
    tables = [read_people_table(file) for file in files]
    check_known([table[:, 0] for table in tables], images, *files)
    rows = [rows_of(table[:, 0], images) for table in tables]
    enrolled = np.concatenate([table[:, 1] for table in tables[:-1]])
    (enrolled, probes), notes = people_apart(enrolled, tables[-1][:, 1], lambda row: str(tables[-1][row, 1]))
    parts = np.split(enrolled, np.cumsum([len(table) for table in tables[:-1]])[:-1])
    never: list = [images.missing[side] if images.missing.any() else None for side in rows]
    lists_of_people = [People(*one) for one in zip(rows, [*parts, probes], never, strict=True)]
    empty = [file for file, people in zip(files, lists_of_people, strict=True) if not len(people.with_images().templates)]
    if empty:
        raise UserError(f"{empty[0]}: no template has an image; expected at least one")
    kept = np.isin(probes, enrolled) | ~images.missing[rows[-1]]        # who is never found is no false positive
    return Search(dict(zip(GALLERIES[subset], lists_of_people, strict=False)), lists_of_people[-1].chosen(kept), notes)


def people_apart(gallery: np.ndarray, probe: np.ndarray,
                 name: Callable[[int], str]) -> tuple[tuple[np.ndarray, np.ndarray], tuple[str, ...]]:
    """((subjects of gallery and probes with a subject of its own for each row of nobody known), sentences about them).

    gallery, probe: int64 subjects. Of a row with -1 nothing is known. If one label has most of the non-mated probes, it means
    "unknown", too: as one person it would make their errors look as if they depended on nothing.  name: the label of a probe.
    """
    notes, unknown = [], [gallery == -1, probe == -1]
    if any(side.any() for side in unknown):
        notes.append(f"{sum(side.sum() for side in unknown):,} rows have the label -1, an unknown person; each of them counts "
                     f"as a person of its own")
    nonmated = np.flatnonzero(~np.isin(probe, gallery) & ~unknown[1])
    if len(nonmated):
        labels, first, count = np.unique(probe[nonmated], return_index=True, return_counts=True)
        most = count.argmax()
        if count[most] >= MIN_ONE_LABEL and 2 * count[most] > len(nonmated):
            unknown[1] |= probe == labels[most]
            notes.append(f"One label, {name(nonmated[first[most]])}, has {count[most]:,} of {len(nonmated):,} non-mated probes; "
                         f"each of them counts as a person of its own. Give each non-mated person a label if you know it")
    fresh = min(0, int(gallery.min()), int(probe.min())) - 1
    out = [np.where(side, fresh - np.cumsum(side) - k * len(gallery), subjects)
           for k, (side, subjects) in enumerate(zip(unknown, (gallery, probe), strict=True))]
    return (out[0], out[1]), tuple(notes)


def check_known(ids: list[np.ndarray], images: Images, *files: Path) -> None:
    """UserError, with their number, if templates with these ids have no image."""
    unknown = np.unique(np.concatenate([np.unique(column[~np.isin(column, images.template_ids)]) for column in ids]))
    if len(unknown):
        raise UserError(f"{', '.join(map(str, files))}: {len(unknown):,} templates have no image in face_tid_mid.txt (first: "
                        f"template {unknown[0]}); add their images, or give --missing count: then they are never matched, which "
                        f"lowers TAR and TPIR but neither FAR nor FPIR")


def rows_of(ids: np.ndarray, images: Images) -> np.ndarray:
    """Rows of the templates with these ids, int32; all of them are known."""
    known = images.template_ids
    if known[-1] < max(len(ids), 16 * len(known)):      # a table, if it is not larger than the lists
        table = np.zeros(known[-1] + 1, np.int32)
        table[known] = np.arange(len(known), dtype=np.int32)
        return table[ids]
    return np.searchsorted(known, ids).astype(np.int32)
