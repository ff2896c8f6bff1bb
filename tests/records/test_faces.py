"""The data set and its loaders: layouts, order, the same batches for any number of workers and ranks, refusals."""

import time

import cv2
import numpy as np
import pytest
import torch
from toy import jpeg, write_records

from records.faces import FaceRecords, SyntheticFaces
from records.loader import BadRecords, ordered_loader, train_loader
from records.recordio import RecordReader, RecordWriter, pack
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


def test_declared_classes_win_with_a_warning(tmp_path, caplog):
    write_records(tmp_path / "train", COUNTS)
    assert FaceRecords(tmp_path, num_classes=9).num_classes == 9
    assert "5 classes have no image" in caplog.text


def batches(loader) -> list[tuple]:
    return [tuple(part.clone() for part in batch) for batch in loader]


def same(found: list[tuple], expected: list[tuple]) -> bool:
    return len(found) == len(expected) and all(
        torch.equal(a, b) for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True))


def test_one_worker_is_four_workers(tmp_path):
    write_records(tmp_path / "train", [10] * 5)
    faces = FaceRecords(tmp_path)
    for epoch in (0, 1):
        found = []
        for workers in (0, 1, 4):
            loader = train_loader(faces, 7, 0, 1, seed=3, workers=workers)
            loader.set_epoch(epoch)
            found.append(batches(loader))
        assert same(found[0], found[1]) and same(found[0], found[2])


def test_two_ranks_see_the_global_batches_of_one(tmp_path):
    write_records(tmp_path / "train", [10] * 5)
    faces = FaceRecords(tmp_path)
    one = batches(train_loader(faces, 8, 0, 1, seed=3, workers=0))
    ranks = [batches(train_loader(faces, 4, rank, 2, seed=3, workers=0)) for rank in range(2)]
    joined = [tuple(torch.cat(parts) for parts in zip(*step, strict=True)) for step in zip(*ranks, strict=True)]
    assert same(joined, one)
    seen = torch.cat([index for *_, index in one]).tolist()
    assert len(seen) == len(set(seen)) == 48


def test_epochs_differ_and_a_persistent_loader_keeps_up(tmp_path):
    write_records(tmp_path / "train", [10] * 5)
    loader = train_loader(FaceRecords(tmp_path), 10, 0, 1, seed=3, workers=2)
    orders = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        orders.append(torch.cat([index for *_, index in loader]).tolist())
    assert orders[0] != orders[1] and orders[0] == orders[2] and sorted(orders[1]) == list(range(50))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ordered_batches_are_whole_and_cover_everything(tmp_path, world_size):
    write_records(tmp_path / "train", [10] * 5)
    faces = FaceRecords(tmp_path)
    found = {}
    for rank in range(world_size):
        for _, _, index in ordered_loader(faces, 8, rank, world_size, workers=0, skip={1}):
            batch = int(index[0]) // 8
            assert batch % world_size == rank
            found[batch] = index.tolist()
    assert found == {k: list(range(8 * k, min(8 * k + 8, 50))) for k in (0, 2, 3, 4, 5, 6)}


def test_synthetic_faces():
    faces = SyntheticFaces(100, 7, 16)
    images, labels, index = next(iter(train_loader(faces, 9, 0, 1, 0, 0)))
    assert images.shape == (9, 16, 16, 3) and torch.equal(labels, index % 7)
    for image, label, i in zip(images, labels.tolist(), index.tolist(), strict=True):
        assert np.array_equal(faces[i][0], image) and faces[i][1:] == (label, i) == (faces.label(i), i)
    assert faces.labels().tolist() == [i % 7 for i in range(100)] and len(list(faces)) == 100
    assert not np.array_equal(faces[0][0], faces[1][0])


def test_the_number_of_workers_draws_nothing_from_the_global_generator(tmp_path):
    write_records(tmp_path / "train", [10] * 5)
    faces, drawn = FaceRecords(tmp_path), []
    for workers in (0, 2):
        loader = train_loader(faces, 10, 0, 1, seed=3, workers=workers)
        for epoch in (0, 1):                # the second time, persistent workers are not started again
            torch.manual_seed(epoch)
            batches(loader)
            drawn.append(torch.rand(()).item())
    assert drawn[:2] == drawn[2:]


def test_leaving_an_epoch_early_leaves_no_batch_behind(tmp_path):
    write_records(tmp_path / "train", [10] * 5)
    loader = train_loader(FaceRecords(tmp_path), 5, 0, 1, seed=3, workers=2)
    whole = batches(loader)
    next(iter(loader))
    assert same(batches(loader), whole)


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


def test_a_record_that_is_no_image_is_one_sentence_from_any_worker(tmp_path):
    with RecordWriter(tmp_path / "train") as writer:
        writer.write(0, pack([3, 1], b"", 0, 0))
        writer.write(1, pack([0, 0], jpeg(0, 1, 16), 1, 0))
        writer.write(2, pack([0, 0], b"no jpeg", 2, 0))
    for workers in (0, 2):
        with pytest.raises(UserError) as error:
            batches(ordered_loader(FaceRecords(tmp_path), 2, 0, 1, workers))
        sentence = str(error.value)
        assert sentence.startswith(str(tmp_path / "train.rec")) and "record 2" in sentence and "\n" not in sentence


def damage(folder, *images: int, how: str = "pixels") -> None:
    """Overwrite bytes of the images i (key i + 1) of train.rec: of the JPEG, of the frame, or the label."""
    reader = RecordReader(folder / "train")
    data = bytearray(reader.path.read_bytes())
    for i in images:
        at = int(reader.offsets[reader.row(i + 1)])
        at, new = {"pixels": (at + 40, bytes(20)), "frame": (at, bytes(8)), "label": (at + 32, b"\0\0\xc0\x7f")}[how]
        data[at:at + len(new)] = new
    reader.path.write_bytes(data)


@pytest.mark.parametrize("how", ["pixels", "frame", "label"])
@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_records_are_replaced_by_the_next_readable_image(tmp_path, caplog, how, workers):
    labels = write_records(tmp_path / "train", [10] * 5)
    whole = FaceRecords(tmp_path, 16)
    expected = [whole[i][0] for i in range(50)]
    damage(tmp_path, 9, 10, 30, 49, how=how)                   # two in a row across a class, one alone, the last
    with pytest.raises(UserError, match="record (10|50) "):
        batches(ordered_loader(FaceRecords(tmp_path, 16), 8, 0, 1, workers))
    taken = {9: 11, 10: 11, 30: 31, 49: 0}
    loader = ordered_loader(FaceRecords(tmp_path, 16, bad_records="skip"), 8, 0, 1, workers)
    for k, (images, found, index) in enumerate(batches(loader)):
        right = [taken.get(i, i) for i in range(8 * k, min(8 * k + 8, 50))]
        assert index.tolist() == right and found.tolist() == [labels[i] for i in right]
        assert all(np.array_equal(image, expected[i]) for image, i in zip(images.numpy(), right, strict=True))
    assert (loader.bad_records.replaced, loader.bad_records.seen) == (4, 50)
    for key in (10, 11, 31, 50):
        assert f"{tmp_path / 'train.rec'}: record {key} " in caplog.text
    image, label, index = FaceRecords(tmp_path, 16, bad_records="skip")[9]
    assert (label, index) == (labels[11], 11) and np.array_equal(image, expected[11])


def test_labels_of_damaged_headers_are_those_of_the_replacement(tmp_path):
    labels = write_records(tmp_path / "train", [10] * 5)
    damage(tmp_path, 9, 49, how="frame")
    assert FaceRecords(tmp_path, 16, bad_records="skip").labels().tolist() == labels[:9] + [1] + labels[10:49] + [0]


def test_more_than_a_few_bad_records_end_the_run(tmp_path, caplog):
    write_records(tmp_path / "train", [150] * 2)
    damage(tmp_path, *range(0, 22, 2))
    for batch in (10, 300):
        with pytest.raises(UserError, match="^11 of .* more than 1 % .and more than 10.; the last: .*record 21 at byte"):
            batches(ordered_loader(FaceRecords(tmp_path, 16, bad_records="skip"), batch, 0, 1, 0))
    named = [line for line in caplog.text.splitlines() if "takes its place" in line]
    assert len(named) == 2 * 5 and caplog.text.count("8 bad records so far") == 2
    counts = BadRecords()
    for _ in range(50):                     # 20 of 2,000 is 1 %, one more is more
        counts.add(100 - 60, {0: "bad"} if counts.replaced < 10 else {})
    for k in range(10):
        counts.add(0, {k: "bad"})
    with pytest.raises(UserError, match="21 of 2000 images"):
        counts.add(0, {99: "the last"})


def test_nothing_to_take_its_place(tmp_path):
    write_records(tmp_path / "train", [3])
    damage(tmp_path, 0, 1, 2)
    with pytest.raises(UserError, match="record 1 .* none among the next 2"):
        FaceRecords(tmp_path, 16, bad_records="skip")[0]


def test_a_header_that_promises_too_much(tmp_path):
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
    with pytest.raises(UserError, match="record 0 at byte 0 is no image .*60000x60000"):
        FaceRecords(tmp_path, 16)[0]


def test_many_batches_pass_through_few_slots(tmp_path):
    """Two workers ahead of a slow consumer: 70 batches through 10 slots, each as the file has it, and so the one before."""
    write_records(tmp_path / "train", [50, 90])
    faces = FaceRecords(tmp_path)
    expected = batches(ordered_loader(faces, 2, 0, 1, workers=0))
    assert len(expected) == 70
    before = None
    for number, found in enumerate(ordered_loader(faces, 2, 0, 1, workers=2)):
        time.sleep(0.005)
        assert same([found], [expected[number]]), number
        assert before is None or same([before], [expected[number - 1]]), number
        before = found


def test_too_few_images_for_a_step(tmp_path):
    write_records(tmp_path / "train", COUNTS)
    with pytest.raises(UserError, match="14 images, a step needs 16"):
        train_loader(FaceRecords(tmp_path), 8, 0, 2, 0, 0)
