"""Classes without an image: of a header, an identity list or labels that promise more than there is; and the single identity."""

import re

import numpy as np
import pytest
from toy_labels import MIXED, SIX, runs, write

from records.classes import images_of_classes, remarks
from records.faces import FaceRecords
from records.recordio import RecordReader
from utils.errors import UserError


@pytest.mark.parametrize("labels, header, given, expected", [
    (SIX, [49, 6], None, []),
    (SIX, None, None, []),
    (SIX, [49, 49 + 6], None, []),
    (MIXED, None, None, []),
    # what is declared, beyond six people
    (MIXED, [49, 49 + runs(MIXED)], None, [f"6 people, {runs(MIXED)} classes declared: {runs(MIXED) - 6} classes have no image"]),
    (SIX, [49, 9], None, ["6 people, 9 classes declared: 3 classes have no image"]),
    (SIX, [49, 49 + 48], None, ["6 people, 48 classes declared: 42 classes have no image"]),
    ([label + 1 for label in SIX], None, None, ["6 people, 7 classes declared: 1 classes have no image"]),
    ([label + 1 for label in SIX], [49, 7], None, ["6 people, 7 classes declared: 1 classes"]),
    ([10 * label for label in SIX], None, None, ["6 people, 51 classes declared: 45 classes have no image"]),
    ([10 * label for label in MIXED], None, None, ["6 people, 51 classes declared: 45 classes have no image"]),
    ([label if label < 5 else 900_000 for label in SIX], None, None, ["6 people, 900001 classes declared: 899995 classes"]),
    # config.num_classes
    (SIX, [49, 6], 6, []),
    (SIX, [49, 6], 9, ["config.num_classes = 9, but .* has 6 classes: 3 classes have no image and act as negatives"]),
    (MIXED, [49, 49 + 40], 6, ["config.num_classes = 6, but .* has 40 classes: those from 6 up have no image and are left out"]),
    ([2 * label for label in SIX], [49, 11], 13, ["config.num_classes = 13, but .* has 11 classes: 2 classes", "6 people, 11 "
     "classes declared: 5 classes have no image"]),
    ([2 * label for label in SIX], [49, 40], 12, ["config.num_classes = 12, but .* has 40 classes: those from 12 up",
                                                  "6 people, 12 classes declared: 6 classes have no image"]),
    (SIX, [49, 3], 6, [])])
def test_classes_without_an_image_are_named(tmp_path, labels, header, given, expected):
    write(tmp_path / "train", labels, header)
    faces = FaceRecords(tmp_path, 16, given)
    counts = images_of_classes(faces)
    assert counts.tolist() == [labels.count(label) for label in range(faces.num_classes)]
    found = remarks(faces, counts)
    assert len(found) == len(expected) and all(re.search(words, text) for words, text in zip(expected, found, strict=True)), found
    assert all(("--from-rec" in text) == ("people" in text) for text in found)


@pytest.mark.parametrize("labels, header, given", [
    ([0] * 9, [10, 1], None), ([0] * 9, [10, 1], 5), ([0] * 9, [10, 10 + 1], 2), ([0] * 9, None, None), ([3] * 9, None, None),
    ([3] * 9, None, 20), ([1] * 9, [10, 4], None), ([2] * 9, [10, 10 + 9], 7)])
def test_one_identity_is_refused_whatever_is_declared(tmp_path, labels, header, given):
    write(tmp_path / "train", labels, header)
    with pytest.raises(UserError, match=rf"train.rec holds one identity \(label {labels[0]}\)"):
        images_of_classes(FaceRecords(tmp_path, 16, given))


@pytest.mark.parametrize("label", [-1, 2.5, 6, float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 20, 47])
def test_a_label_that_is_not_a_class_names_its_record(tmp_path, label, row):
    write(tmp_path / "train", [*SIX[:row], label, *SIX[row + 1:]], [49, 6])
    with pytest.raises(UserError, match=f"record {row + 1} has label {label:g}"):
        images_of_classes(FaceRecords(tmp_path, 16))
    counts = images_of_classes(FaceRecords(tmp_path, 16, bad_records="skip"))       # the next image takes its place
    assert counts.sum() == 48


@pytest.mark.parametrize("header", [None, [49, 6]])
def test_labels_are_read_once(tmp_path, monkeypatch, header):
    """By the constructor of a set without header, by the check of the classes, and by a method that asks for them."""
    write(tmp_path / "train", SIX, header)
    read, first_labels = [], RecordReader.first_labels

    def counted(self, keys, forgive=False):
        read.extend(keys)
        return first_labels(self, keys, forgive)
    monkeypatch.setattr(RecordReader, "first_labels", counted)
    faces = FaceRecords(tmp_path, 16)
    images_of_classes(faces)
    assert faces.labels().tolist() == faces.labels().tolist() == SIX
    assert sorted(read) == list(range(bool(header), 48 + bool(header)))


@pytest.mark.parametrize("change, words", [
    (lambda lines: lines[:-1] + [lines[-1][:-3]], "does not begin with the magic word|points to byte|ends at byte"),
    (lambda lines: [lines[0], lines[0], *lines[2:]], "names a key twice"),
    (lambda lines: [line.split("\t")[0] + "\t" + other.split("\t")[1] for line, other in zip(lines, lines[:1] * 2 + lines[2:],
                                                                                             strict=True)], "names a byte twice"),
    (lambda lines: [line.split("\t")[0] + f"\t{500 * k}" for k, line in enumerate(lines)], "does not begin with the magic word"),
    (lambda lines: lines[:-9], "promises 48 images, the index has 39")])
def test_an_index_of_something_else_is_refused_before_a_training(tmp_path, change, words):
    """A last line that was cut, doubled keys and bytes, the offsets of another .rec, an index that was cut between two lines."""
    write(tmp_path / "train", SIX, [49, 6])
    idx = tmp_path / "train.idx"
    idx.write_text("\n".join(change(idx.read_text().splitlines())) + "\n")
    with pytest.raises(UserError, match=words):
        images_of_classes(FaceRecords(tmp_path, 16))


def test_keys_in_another_order_change_nothing_with_a_header(tmp_path):
    write(tmp_path / "train", [10 * label for label in MIXED], [49, 40])
    idx = tmp_path / "train.idx"
    idx.write_text("".join(np.random.default_rng(1).permutation(idx.read_text().splitlines(keepends=True))))
    assert FaceRecords(tmp_path, 16, 51).labels().tolist() == [10 * label for label in MIXED]
