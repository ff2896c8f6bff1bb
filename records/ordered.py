"""A record file in any order, with any labels, in label order: its people are numbered 0, 1, ... without a gap."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from records.faces import MAX_LABEL, FaceRecords
from records.recordio import RecordReader, RecordWriter, pack
from utils.command_line import make_folder
from utils.errors import UserError
from utils.files import file_hash, write_text
from utils.locks import hold_folder
from utils.origin import load_origin

LIST = "images.txt"         # row, label, person, path of each image; written with train.rec, whose .json has its checksum
AHEAD = 256                 # images that the kernel is asked for at once
SECONDS_FOR_LOCK = 5        # that a writer waits for another that is about to end


class Ordered(NamedTuple):
    """The images of ``faces`` in label order; images of one person keep their order.

    rows: int64 [N], their numbers in the file.  labels: int64 [N], their new labels, in the new order.
    people: int64 [C], the label that each new label has in the file.
    """

    faces: FaceRecords
    rows: np.ndarray
    labels: np.ndarray
    people: np.ndarray

    @property
    def changed(self) -> str:
        """What is different from the file, in words; empty if nothing is."""
        words = []
        if (np.diff(self.rows) != 1).any():
            words.append("the images are sorted by label")
        if (self.people != np.arange(len(self.people))).any():
            words.append(f"the {len(self.people)} labels from {self.people[0]} to {self.people[-1]} become 0 to "
                         f"{len(self.people) - 1}")
        elif self.faces.declared > len(self.people):
            words.append(f"{self.faces.declared - len(self.people)} declared classes without an image are left out")
        return ", ".join(words)

    def records(self) -> Iterator[tuple[int, int, np.ndarray, bytes]]:
        """(number in the file, new label, row of labels float32 with the new one first, image) of each image."""
        reader = self.faces.records
        with tqdm(total=len(self.rows), unit=" images", disable=None) as bar:
            for place, (i, label) in enumerate(zip(self.rows.tolist(), self.labels.tolist(), strict=True)):
                if place % AHEAD == 0:
                    reader.prefetch(self.faces.keys[self.rows[place:place + AHEAD]])
                header, image = reader.unpack(int(self.faces.keys[i]))
                row = np.array(header.label if len(header.label) > 1 else [0, 0], np.float32)
                row[0] = label
                yield i, label, row, bytes(image)
                bar.update()


def in_label_order(path) -> Ordered:
    """The images of a record file (.rec, prefix, or folder with train.rec).

    The classes that its header promises do not count, only labels of images.  UserError for a label that is not a whole number
    from 0 up.
    """
    faces = FaceRecords(path, num_classes=MAX_LABEL)
    labels = faces.labels()
    rows = np.argsort(labels, kind="stable")
    people, numbers = np.unique(labels, return_inverse=True)
    return Ordered(faces, rows, numbers[rows], people)


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Make the folder ``out`` and lock it while the block runs; UserError if another process writes records to it."""
    make_folder(out, "--out")
    with hold_folder(out, f"another process writes record files to {out}; wait until it has ended, or give another --out",
                     SECONDS_FOR_LOCK):
        yield


def refuse_existing(file: Path, force: bool) -> None:
    """UserError if the record file exists and is not to be replaced."""
    if file.exists() and not force:
        raise UserError(f"{file} exists; give another --out, or --force to replace it (its parts and the features of its images "
                        f"must then be made again)")


def write_ordered(source: Path, out: Path, force: bool) -> None:
    """Write train.{rec,idx}, property, identities.txt and images.txt into the folder ``out``, in insightface's layout.

    Images are copied byte for byte.  force: replace a train.rec that is there, also ``source`` itself.  UserError as in
    :func:`in_label_order`.
    """
    target = out / "train.rec"
    with writing_to(out):
        refuse_existing(target, force)
        ordered = in_label_order(source)
        faces, names = ordered.faces, names_of(ordered)
        total, people = len(ordered.rows), len(names)
        first = np.searchsorted(ordered.labels, np.arange(people + 1)) + 1
        lines = ["row\tlabel\tperson\tpath\n"]
        with RecordWriter(out / "train") as writer:
            writer.write(0, pack([total + 1, total + 1 + people], b"", 0, 0))
            for key, (i, label, row, image) in enumerate(ordered.records(), 1):
                writer.write(key, pack(row, image, key, 0))
                lines.append(f"{key - 1}\t{label}\t{names[label]}\t{faces.path}:{faces.keys[i]}\n")
            for label in range(people):
                writer.write(total + 1 + label, pack(first[label:label + 2], b"", total + 1 + label, 0))
            write_text(out / "property", f"{people},{faces.image_size},{faces.image_size}\n")
            write_text(out / "identities.txt", "".join(f"{label}\t{name}\n" for label, name in enumerate(names)))
            writer.about = list_images(out, lines)
    print(f"{target}: {total} images of {people} identities; {ordered.changed or 'nothing was out of order'}")


def list_images(out: Path, rows: list[str]) -> dict:
    """Write <out>/images.txt; what the .json of the record file says about it.  rows: with the line of names."""
    write_text(out / LIST, "".join(rows))
    return {LIST: file_hash([out / LIST])}


def refuse_other_list(train: Path) -> None:
    """UserError if images.txt next to the record file ``train`` is not the list that was written with it, as far as is known."""
    about, file = load_origin(train), train.with_name(LIST)
    if LIST in about and (about[LIST] != file_hash([file]) or train.is_file()
                          and about.get("records") != RecordReader(train).fingerprint()):
        raise UserError(f"{file} is not the list that was written with {train}; run tools/make_rec again, or give a list that is "
                        f"right as --images FILE")


def names_of(ordered: Ordered) -> list[str]:
    """Name of each person: from identities.txt (label<TAB>name) next to the file, else the label in the file."""
    file, names = ordered.faces.path.with_name("identities.txt"), {}
    try:
        if file.is_file():
            lines = (line.split("\t", 1) for line in file.read_text(encoding="utf-8").splitlines())
            names = {int(label): name for label, name in lines}
    except ValueError as error:
        raise UserError(f"{file} is not a list of label<TAB>name ({error}); correct or remove it") from error
    return [names.get(label, str(label)) for label in ordered.people.tolist()]
