"""The data set: the three layouts of a record file, labels, and headers and images that are refused."""

import cv2
import numpy as np
import pytest
import torch
from toy import jpeg, write_records

from records.faces import FaceRecords, SyntheticFaces
from records.loader import train_loader
from records.recordio import RecordWriter, pack
from utils.errors import UserError

COUNTS = [4, 1, 6, 3]


def write_layout(prefix, layout: str) -> list[int]:
    """COUNTS images with header and identity records, with header alone, or (im2rec) with neither."""
    if layout == "parts":
        return write_records(prefix, COUNTS)
    labels = [label for label, n in enumerate(COUNTS) for _ in range(n)]
    with RecordWriter(prefix) as writer:
        if layout == "im2rec":
            for key, label in enumerate(labels):
                writer.write(key, pack(label, jpeg(label, key + 1, 16), key, 0))
            return labels
        writer.write(0, pack([len(labels) + 1, len(labels) + 1 + len(COUNTS)], b"", 0, 0))
        for key, label in enumerate(labels, 1):
            writer.write(key, pack([label, key], jpeg(label, key, 16), key, 0))
        for label in range(len(COUNTS)):
            writer.write(len(labels) + 1 + label, pack([1, 2], b"", 0, 0))
    return labels


@pytest.mark.parametrize("layout", ["insightface", "parts", "im2rec"])
def test_layouts(tmp_path, layout):
    labels = write_layout(tmp_path / "train", layout)
    faces = FaceRecords(tmp_path)
    assert (len(faces), faces.num_classes, faces.image_size) == (14, 4, 16)
    assert faces.labels().tolist() == labels == [faces.label(i) for i in range(14)]
    for i in (0, 5, 13):
        image, label, index = faces[i]
        data = jpeg(labels[i], i + 1, 16)
        assert faces.jpeg(i) == data and (label, index) == (labels[i], i)
        rgb = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        assert np.array_equal(image, rgb)
    images, batch_labels, index = faces.__getitems__([7, 0, 7])
    assert images.dtype == torch.uint8 and index.tolist() == [7, 0, 7]
    assert batch_labels.tolist() == [labels[7], 0, labels[7]]
    assert np.array_equal(images[1].numpy(), faces[0][0])


def test_real_faces(faces):
    data = FaceRecords(faces / "ms1m-retinaface-t1")
    assert (len(data), data.num_classes, data.image_size) == (6704, 1560, 112)
    labels = data.labels()
    assert labels[0] == 0 and labels[-1] == 1559 and (np.bincount(labels) > 0).all()
    assert FaceRecords(faces / "ms1m-retinaface-t1", image_size=64)[6703][0].shape == (64, 64, 3)


def test_the_number_of_classes_can_be_given(tmp_path):
    write_records(tmp_path / "train", COUNTS)
    faces = FaceRecords(tmp_path, num_classes=9)
    assert (faces.num_classes, faces.declared) == (9, 4)


def test_synthetic_faces():
    faces = SyntheticFaces(100, 7, 16)
    images, labels, index = next(iter(train_loader(faces, 9, 0, 1, 0, 0)))
    assert images.shape == (9, 16, 16, 3) and torch.equal(labels, index % 7)
    for image, label, i in zip(images, labels.tolist(), index.tolist(), strict=True):
        assert np.array_equal(faces[i][0], image) and faces[i][1:] == (label, i) == (faces.label(i), i)
    assert faces.labels().tolist() == [i % 7 for i in range(100)] and len(list(faces)) == 100
    assert not np.array_equal(faces[0][0], faces[1][0])


def test_images_of_a_file_without_header_are_in_the_order_of_its_index(tmp_path):
    with RecordWriter(tmp_path / "train") as writer:
        for key in (2, 0, 1):
            writer.write(key, pack(key, jpeg(key, 1, 16), key, 0))
    assert FaceRecords(tmp_path).labels().tolist() == [2, 0, 1]


@pytest.mark.parametrize("label, words", [(4, "label 4"), (-1, "label -1"), (1.5, "label 1.5"),
                                          (float("nan"), "label nan"), (float("inf"), "label inf")])
def test_impossible_labels_name_the_record(tmp_path, label, words):
    with RecordWriter(tmp_path / "train") as writer:
        writer.write(0, pack([3, 2], b"", 0, 0))
        writer.write(1, pack([0, 0], jpeg(0, 1, 16), 1, 0))
        writer.write(2, pack([label, 0], jpeg(0, 2, 16), 2, 0))
    for ask in (lambda faces: faces.__getitems__([0, 1]), FaceRecords.labels, lambda faces: faces.label(1)):
        with pytest.raises(UserError, match=f"record 2 has {words}"):
            ask(FaceRecords(tmp_path))


def test_a_header_that_promises_more_images_than_the_index_has(tmp_path):
    with RecordWriter(tmp_path / "train") as writer:
        writer.write(0, pack([30, 2], b"", 0, 0))
        writer.write(1, pack([0, 0], jpeg(0, 1, 16), 1, 0))
    with pytest.raises(UserError, match="promises 29 images"):
        FaceRecords(tmp_path)


@pytest.mark.parametrize("counts, keys, words", [
    ([3, 1], [5, 6], "has 0 of the keys 1 to 2"), ([3e38, 1], [1, 2], "the index has 2 of the keys"),
    ([2.5, 1], [1, 2], "instead of two counts"), ([3], [1, 2], "instead of two counts"),
    ([3, 3e38], [1, 2], "classes for 2 images"), ([3, -5], [1, 2], "promises -5 classes"),
    ([3, 0], [1, 2], "promises 0 classes"), ([3, 3], [1, 2], "promises 0 classes"),
    ([float("nan"), 1], [1, 2], "instead of two counts"),
    ([float("inf"), 1], [1, 2], "instead of two counts"), ([1, 1], [1, 2], "promises 0 images")])
def test_headers_that_do_not_fit_their_file(tmp_path, counts, keys, words):
    with RecordWriter(tmp_path / "train") as writer:
        writer.write(0, pack(counts, b"", 0, 0))
        for key in keys:
            writer.write(key, pack([0, 0], jpeg(0, key, 16), key, 0))
    with pytest.raises(UserError, match=words):
        FaceRecords(tmp_path)


@pytest.mark.parametrize("label, words", [(3e38, "label 3e.38"), (2**24, "label 1.67772e.07"), (9e6, "largest label is 9000000")])
def test_labels_that_would_fill_the_memory(tmp_path, label, words):
    with RecordWriter(tmp_path / "train") as writer:
        writer.write(0, pack(0, jpeg(0, 1, 16), 0, 0))
        writer.write(1, pack(label, jpeg(0, 2, 16), 1, 0))
    with pytest.raises(UserError, match=words):
        FaceRecords(tmp_path)
    assert label > 1e7 or FaceRecords(tmp_path, num_classes=9_000_001).num_classes == 9_000_001


def test_an_image_of_absurd_size_names_its_record(tmp_path):
    data = bytearray(jpeg(0, 1, 16))
    at = data.index(b"\xff\xc0")
    data[at + 5:at + 9] = b"\xea\x60" * 2
    with RecordWriter(tmp_path / "train") as writer:
        writer.write(0, pack(0, bytes(data), 0, 0))
    with pytest.raises(UserError, match="record 0 at byte 0 is not an image .*claims more pixels than"):
        FaceRecords(tmp_path, 16)[0]
